"""`ropo pairs`: make preference pairs from a model's own answers."""

from __future__ import annotations

__all__ = ()

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropo.judging.judge import Judge, Meter

_GRADE_TOKENS = 256  # a grade with a sentence or two before it

HELP = "make on-policy preference pairs from prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ropo pairs`."""
    from ropo.cli.flags import add_sampling_arguments
    from ropo.judging.options import KINDS, add_judge_arguments

    parser.add_argument("--model", required=True, help="the policy: hub id, folder, .gguf file or PEFT adapter folder")
    add_sampling_arguments(parser, samples=6, temperature=0.8, top_p=0.95)
    kinds = KINDS.replace("`", "")
    parser.add_argument("--scorer", default="rules", help=f"what scores answers: {kinds} (default rules)")
    parser.add_argument("--strategy", default="best-worst", help="best-worst, best-random or all (default best-worst)")
    parser.add_argument("--margin", type=float, default=0.0, help="least difference of the scores (default 0)")
    parser.add_argument("--threshold", type=float, default=1.0, help="score from which an answer passes (default 1)")
    parser.add_argument("--max_pairs", type=int, default=1, help="most pairs per prompt (default 1)")
    parser.add_argument(
        "--match_lengths",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out pairs until chosen and rejected are as long on average, within 2 %% (default on)",
    )
    group = parser.add_argument_group("where --scorer is openai: or transformers:")
    add_judge_arguments(group, _GRADE_TOKENS, but=("judge", "judge_logprobs"))


def run(args: argparse.Namespace) -> None:
    """Sample, score, choose and write; an interrupted run continues where it stopped."""
    from rich.console import Console

    from ropo.cli.flags import sampling_settings
    from ropo.cli.quiet import quiet_libraries
    from ropo.core.progress import show_progress
    from ropo.judging.judge import MANY, WARNING
    from ropo.lm.sampling import describe_prompts, read_prompts
    from ropo.pairs import Selection, make_pairs
    from ropo.pairs.summary import summary_table

    quiet_libraries()
    sampling = sampling_settings(args)
    selection = Selection(args.strategy, args.margin, args.threshold, args.max_pairs, args.match_lengths)
    prompts = read_prompts(args.prompts)
    print(describe_prompts(prompts))
    judge = _judge_of(args)
    with show_progress("sampling answers to prompts", len(prompts)) as advance:
        outcome = make_pairs(
            args.model,
            prompts,
            args.output,
            judge,
            sampling,
            selection,
            args.batch_size,
            lambda batch: advance(len(batch.prompts)),
        )
    Console().print(summary_table(outcome.rows, outcome.dropped))
    meter = judge.meter
    if meter.failures or meter.answered:
        print(_judge_line(meter, args.judge_input_price, args.judge_output_price))
    missing, asked = meter.missing
    if missing and missing >= MANY * asked:
        mend = "see --judge_max_tokens, or take another judge"
        print(f"{WARNING}{missing} of {asked} answers have no grade ({meter.why}); {mend}", file=sys.stderr)
    print(f"{len(outcome.pairs)} pairs: {args.output}")


def _judge_of(args: argparse.Namespace) -> Judge:
    """Return the judge that `--scorer` names; its verdicts are kept beside the output."""
    from ropo.cli.extras import libraries_of
    from ropo.core.settings import settings_from
    from ropo.judging.options import JudgeOptions, load_judge

    flags = argparse.Namespace(**vars(args), judge=args.scorer, judge_logprobs=False)
    options = settings_from(JudgeOptions, flags)
    with libraries_of("evaluation", f"scorer {args.scorer}"):
        folder = args.output.with_name(f"{args.output.stem}.verdicts")
        return load_judge(options, folder, args.batch_size, _GRADE_TOKENS, "scorer")


def _judge_line(meter: Meter, input_price: float | None, output_price: float | None) -> str:
    """Say what a judge was asked and what it cost."""
    told = meter.summary(input_price, output_price)
    parts = [f"{told['calls']} grades asked for now, {told['kept']} kept"]
    parts += [f"{count} without a grade ({reason})" for reason, count in told["failures"].items()]
    parts.append(f"{told['prompt_tokens']:,} tokens read, {told['completion_tokens']:,} written")
    parts += [] if told["cost"] is None else [f"cost {told['cost']:.2f}"]
    return f"judge: {'; '.join(parts)}"
