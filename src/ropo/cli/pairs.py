"""`ropo pairs`: make preference pairs from a model's own answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropo.judging.chat import Meter
    from ropo.judging.scorers import Scorer

GRADE_TOKENS = 256  # a grade with a sentence or two before it
MANY = 0.1  # share of answers without a grade from which it is said loudly

HELP = "make on-policy preference pairs from prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ropo pairs`."""
    from ropo.cli.sampling import add_sampling_arguments
    from ropo.judging.flags import KINDS, add_chat_arguments

    parser.add_argument("--model", required=True, help="the policy: hub id, folder, .gguf file or PEFT adapter folder")
    add_sampling_arguments(parser, samples=6, temperature=0.8, top_p=0.95)
    kinds = KINDS.replace("`", "")
    parser.add_argument("--scorer", default="rules", help=f"what scores answers: {kinds} (default rules)")
    parser.add_argument("--strategy", default="best-worst", help="best-worst, best-random or all (default best-worst)")
    parser.add_argument("--margin", type=float, default=0.0, help="least difference of the scores (default 0)")
    parser.add_argument("--threshold", type=float, default=1.0, help="score from which an answer passes (default 1)")
    parser.add_argument("--max_pairs", type=int, default=1, help="most pairs a prompt (default 1)")
    parser.add_argument(
        "--match_lengths",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out pairs until chosen and rejected are as long on average, within 2 %% (default on)",
    )
    add_chat_arguments(parser.add_argument_group("where --scorer is openai: or transformers:"), GRADE_TOKENS)


def run(args: argparse.Namespace) -> None:
    """Sample, score, choose and write; an interrupted run continues where it stopped."""
    from rich.console import Console

    from ropo.cli.quiet import quiet_libraries
    from ropo.cli.sampling import batch_progress, sampling_settings
    from ropo.lm.sampling import read_prompts
    from ropo.pairs import Selection, make_pairs
    from ropo.pairs.summary import summary_table

    quiet_libraries()
    sampling = sampling_settings(args)
    selection = Selection(args.strategy, args.margin, args.threshold, args.max_pairs, args.match_lengths)
    prompts = read_prompts(args.prompts)
    scorer = scorer_of(args)
    with batch_progress(len(prompts)) as advance:
        outcome = make_pairs(args.model, prompts, args.output, scorer, sampling, selection, args.batch_size, advance)
    Console().print(summary_table(outcome.rows, outcome.dropped))
    if meter := getattr(scorer, "meter", None):
        print(judge_line(meter, args.judge_input_price, args.judge_output_price))
        if warning := judge_warning(meter):
            print(warning, file=sys.stderr)
    print(f"{len(outcome.pairs)} pairs: {args.output}")


def scorer_of(args: argparse.Namespace) -> Scorer:
    """Return the scorer that the flags name; a chat model's verdicts are kept beside the output."""
    if args.scorer.partition(":")[0] not in ("openai", "transformers"):
        from ropo.pairs import load_scorer

        return load_scorer(args.scorer)
    from ropo.cli.extras import evaluation_libraries_for

    with evaluation_libraries_for(f"scorer {args.scorer}"):
        from ropo.evaluation.settings import settings_from
        from ropo.judging.chat import ChatModel
        from ropo.judging.flags import JudgeSettings, load_judge
        from ropo.judging.grading import ChatScorer
        from ropo.judging.verdicts import VerdictStore

        flags = argparse.Namespace(**vars(args), judge=args.scorer, judge_logprobs=False)
        judge = load_judge(settings_from(JudgeSettings, flags), args.batch_size, GRADE_TOKENS)
        assert isinstance(judge, ChatModel)  # as the two kinds above are
        return ChatScorer(judge, VerdictStore(verdicts_path(args.output)))


def verdicts_path(output: Path) -> Path:
    """Return the folder of a judge's verdicts."""
    return output.with_name(f"{output.stem}.verdicts")


def judge_warning(meter: Meter) -> str | None:
    """Say it loudly where a judge gave many answers no grade: they are not used, whatever they are worth."""
    missing, asked = meter.missing
    if missing < MANY * asked or not missing:
        return None
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(meter.failures.items()))
    return f"WARNING: {missing} of {asked} answers have no grade ({why}); see --judge_max_tokens, or take another judge"


def judge_line(meter: Meter, input_price: float | None, output_price: float | None) -> str:
    """Say what a judge was asked and what it cost."""
    told = meter.summary(input_price, output_price)
    parts = [f"{told['calls']} grades asked for now, {told['kept']} kept"]
    parts += [f"{count} without a grade ({reason})" for reason, count in told["failures"].items()]
    parts.append(f"{told['prompt_tokens']:,} tokens read, {told['completion_tokens']:,} written")
    parts += [] if told["cost"] is None else [f"cost {told['cost']:.2f}"]
    return f"judge: {'; '.join(parts)}"
