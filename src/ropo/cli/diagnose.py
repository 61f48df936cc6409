"""`ropo diagnose`: what preference training did to a model's weights, answers and memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError

HELP = "measure energy, collapse, drift, variety and forgetting of a model or an adapter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("model", metavar="MODEL_OR_ADAPTER", help="hub id, folder, .gguf file or PEFT adapter folder")
    parser.add_argument("--reference", metavar="M", help="model to compare with; default: an adapter's base model")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="where the numbers go")
    parser.add_argument("--pairs", metavar="DATA", help="held-out pairs: log-prob changes, margin, accuracy")
    parser.add_argument("--max_pairs", type=int, default=64, metavar="N", help="pairs to use, the first N (64)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts to answer: length, variety, KL")
    parser.add_argument("--max_prompts", type=int, default=32, metavar="N", help="prompts to use, the first N (32)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="answers a prompt, at temperature 1 (4)")
    parser.add_argument("--max_new_tokens", type=int, default=128, metavar="N", help="longest answer in tokens (128)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text: the loss that shows forgetting")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampled answers (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.json if it exists")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the tables and write the report."""
    check_arguments(arguments)

    from rich.console import Console

    import ropo  # noqa: F401  registers the adapter
    from ropo.cli.quiet import quiet_libraries
    from ropo.diagnostics.table import print_report

    quiet_libraries()
    report = measure(arguments)
    write_report(arguments.output, report)
    # A table cut to a pipe's 80 columns would lose its numbers.
    console = Console()
    print_report(report, console if console.is_terminal else Console(width=160))
    print(f"written to {arguments.output}")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Find mistakes before anything is loaded."""
    output = arguments.output
    if output.is_dir():
        raise UserError(f"output {output}: is a folder; name a .json file")
    if output.exists() and not arguments.overwrite:
        raise UserError(f"output {output}: the file exists; choose another name or add --overwrite")
    for name in ("max_pairs", "max_prompts"):
        value = getattr(arguments, name)
        if value < 1:
            raise UserError(f"--{name}: must be at least 1, got {value}; leave it out for the default")
    if arguments.text is not None and not arguments.text.is_file():
        raise UserError(f"text {arguments.text}: no such file; check the path")


def measure(arguments: argparse.Namespace) -> Any:
    """Load the models and the data, and measure everything that was asked for."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from ropo.core.record import git_commit, library_versions
    from ropo.diagnostics import diagnose, layers, report, weights
    from ropo.lm.loading import load_model, load_policy, load_tokenizer
    from ropo.lm.sampling import SamplingSettings, encode_prompts, read_prompts

    settings = SamplingSettings(samples=arguments.samples, max_new_tokens=arguments.max_new_tokens, seed=arguments.seed)
    prompts = read_prompts(arguments.prompts)[: arguments.max_prompts] if arguments.prompts else None
    records = read_pairs(arguments.pairs, arguments.max_pairs) if arguments.pairs else None
    tokenizer = load_tokenizer(arguments.model)
    encoded = encode_prompts(tokenizer, prompts) if prompts else None
    tokens = tokenize_pairs(tokenizer, records) if records else None
    windows = read_windows(tokenizer, arguments.text) if arguments.text else None

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_policy(arguments.model)
    reference: Any = load_model(arguments.reference) if arguments.reference else None
    for loaded in filter(None, (model, reference)):
        loaded.to(device).eval()
    opener = diagnose.reference_opener(model, reference)
    if tokens and opener is None:
        raise UserError("--pairs: log-prob changes need a model to compare with; add --reference")

    pairs = layers.pair_layers(model, reference)
    bar = track(pairs, "measuring layers", console=Console(stderr=True), transient=True)
    measured = [weights.measure_layer(pair) for pair in bar]
    summary = report.summarise_layers(measured)
    behaviour = diagnose.diagnose_behaviour(model, opener, tokens) if tokens and opener else None
    answers = diagnose.diagnose_answers(model, opener, tokenizer, encoded, settings) if encoded else None
    text = diagnose.diagnose_text(model, opener, windows) if windows else None
    return report.DiagnosticReport(
        model=arguments.model,
        reference=arguments.reference or (None if opener is None else "its base model"),
        seed=arguments.seed,
        versions=library_versions(),
        git_commit=git_commit(),
        summary=summary,
        layers=measured,
        behaviour=behaviour,
        answers=answers,
        text=text,
        warnings=report.find_warnings(summary, behaviour, answers, text),
    )


def read_pairs(source: str, most: int) -> list[dict[str, Any]]:
    """Read the first held-out pairs."""
    from ropo.preferences.data import load_preferences

    pairs = load_preferences(source, split="test").pairs
    return list(pairs.select(range(min(most, len(pairs)))))


def tokenize_pairs(tokenizer: Any, records: list[dict[str, Any]]) -> list[Any]:
    """Tokenise held-out pairs."""
    from ropo.lm.tokens import shorten_pair, tokenize_pair

    return [shorten_pair(tokenize_pair(tokenizer, record), 1024) for record in records]


def read_windows(tokenizer: Any, file: Path) -> list[list[int]]:
    """Read the beginning of a plain text: up to 8 windows of 256 tokens."""
    from ropo.lm.tokens import text_windows

    try:
        return text_windows(tokenizer, file.read_text(encoding="utf-8"), window=256, most=8)
    except UnicodeDecodeError as error:
        raise UserError(f"text {file}: is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error


def write_report(file: Path, report: Any) -> None:
    """Write the report under a temporary name first, so that a file with the final name is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
