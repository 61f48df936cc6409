"""`ropo diagnose`: what preference training did to a model's weights, answers and memory."""

from __future__ import annotations

__all__ = ()

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ropo.cli.evaluate import console_of_tables
from ropo.cli.flags import add_strength, at_strength, check_new_file
from ropo.core.errors import UserError
from ropo.core.files import check_file, write_atomically

HELP = "measure energy, collapse, drift, variety and forgetting of a model or an adapter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("model", metavar="MODEL_OR_ADAPTER", help="hub id, folder, .gguf file or PEFT adapter folder")
    add_strength(parser)
    parser.add_argument("--reference", metavar="M", help="model to compare with; default: an adapter's base model")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="where the numbers go")
    parser.add_argument("--pairs", metavar="DATA", help="held-out pairs: log-prob changes, margin, accuracy")
    parser.add_argument("--max_pairs", type=int, default=64, metavar="N", help="pairs to use, the first N (64)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts to answer: length, variety, KL")
    parser.add_argument("--max_prompts", type=int, default=32, metavar="N", help="prompts to use, the first N (32)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="answers per prompt, at temperature 1 (4)")
    parser.add_argument("--max_new_tokens", type=int, default=128, metavar="N", help="longest answer in tokens (128)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text: the loss that shows forgetting")
    parser.add_argument("--layers", action="store_true", help="show the table of layers too; FILE.json always has it")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampled answers (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.json if it exists")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the tables and write the report."""
    _check_flags(arguments)
    arguments.model = at_strength(arguments.model, arguments.strength)

    from rich.console import Console

    from ropo.cli.quiet import quiet_libraries
    from ropo.diagnostics.table import print_report

    quiet_libraries()
    report = _measure(arguments)
    write_atomically(arguments.output, report.model_dump_json(indent=2) + "\n")
    print_report(report, console_of_tables() if arguments.layers else Console(), arguments.layers)
    print(f"written to {arguments.output}")


def _check_flags(arguments: argparse.Namespace) -> None:
    """Find mistakes before anything is loaded."""
    check_new_file("output", arguments.output, arguments.overwrite, ".json")
    for name in ("max_pairs", "max_prompts"):
        value = getattr(arguments, name)
        if value < 1:
            raise UserError(f"--{name}: must be at least 1, got {value}; leave it out for the default")
    if arguments.text is not None:
        check_file("text", arguments.text)


def _measure(arguments: argparse.Namespace) -> Any:
    """Load the models and the data, and measure everything that was asked for."""
    import torch

    from ropo.diagnostics.comparison import HeldOut
    from ropo.diagnostics.report import diagnose
    from ropo.lm.held_out import BETA, read_held_out, trained_limits, trained_plainly, trained_with
    from ropo.lm.loading import load_model, load_policy, load_tokenizer
    from ropo.lm.sampling import SamplingSettings, encode_prompts, read_prompts

    settings = SamplingSettings(samples=arguments.samples, max_new_tokens=arguments.max_new_tokens, seed=arguments.seed)
    prompts = read_prompts(arguments.prompts)[: arguments.max_prompts] if arguments.prompts else []
    tokenizer = load_tokenizer(arguments.model)
    models = [each for each in (arguments.model, arguments.reference) if each]
    limits = trained_limits(arguments.model, models=models)
    pairs = None
    if arguments.pairs:
        pairs = read_held_out(
            arguments.pairs, "test", tokenizer, limits, arguments.max_pairs, trained_plainly(arguments.model)
        )
        for note in pairs.notes():
            print(f"data      {note}")
    held_out = HeldOut(
        pairs=pairs.tokens if pairs else (),
        prompts=encode_prompts(tokenizer, prompts),
        windows=_read_windows(tokenizer, arguments.text) if arguments.text else (),
        settings=settings,
        beta=trained_with(arguments.model, "beta", BETA),
        limits=limits,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_policy(arguments.model)
    reference: Any = load_model(arguments.reference) if arguments.reference else None
    for loaded in filter(None, (model, reference)):
        loaded.to(device).eval()
    return diagnose(
        model,
        reference,
        tokenizer,
        held_out,
        (arguments.model, arguments.reference),
        _with_progress,
    )


def _with_progress(layers: Sequence[Any]) -> Iterator[Any]:
    """Yield layers, and show how far they are."""
    from ropo.core.progress import show_progress

    with show_progress("measuring layers", len(layers)) as advance:
        for layer in layers:
            yield layer
            advance(1)


def _read_windows(tokenizer: Any, file: Path) -> list[Any]:
    """Read the beginning of a plain text: up to 8 windows of 256 tokens."""
    from ropo.core.files import read_text
    from ropo.lm.tokens import text_windows

    return text_windows(tokenizer, read_text(file, "text"), window=256, most=8)
