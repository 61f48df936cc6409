"""`ropo pairs`: make preference pairs from a model's own answers."""

from __future__ import annotations

import argparse

HELP = "make on-policy preference pairs from prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ropo pairs`."""
    from ropo.cli.sampling import add_sampling_arguments

    parser.add_argument("--model", required=True, help="the policy: hub id, folder, .gguf file or PEFT adapter folder")
    add_sampling_arguments(parser, samples=6, temperature=0.8, top_p=0.95)
    parser.add_argument("--scorer", default="rules", help="rules, reward:MODEL or module:function (default rules)")
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


def run(args: argparse.Namespace) -> None:
    """Sample, score, choose and write; an interrupted run continues where it stopped."""
    from rich.console import Console

    from ropo.cli.quiet import quiet_libraries
    from ropo.cli.sampling import batch_progress, sampling_settings
    from ropo.generation import read_prompts
    from ropo.pairs import Selection, load_scorer, make_pairs
    from ropo.pairs.summary import summary_table

    quiet_libraries()
    sampling = sampling_settings(args)
    selection = Selection(args.strategy, args.margin, args.threshold, args.max_pairs, args.match_lengths)
    prompts = read_prompts(args.prompts)
    scorer = load_scorer(args.scorer)
    with batch_progress(len(prompts)) as advance:
        outcome = make_pairs(args.model, prompts, args.output, scorer, sampling, selection, args.batch_size, advance)
    Console().print(summary_table(outcome.rows, outcome.dropped))
    print(f"{len(outcome.pairs)} pairs: {args.output}")
