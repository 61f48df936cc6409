"""`ropo train`: preference-tune a model on pairs."""

from __future__ import annotations

__all__ = ()

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ropo.cli.parser import Parser

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from ropo.core.record import RunRecord

HELP = "train a model on preference pairs"


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    from ropo.cli.train_options import add_train_options

    add_train_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train, and leave a finished output folder or none."""
    import logging

    from rich.console import Console

    from ropo.cli.quiet import quiet_libraries
    from ropo.cli.train_options import read_train_options
    from ropo.runs.plan import print_plan
    from ropo.runs.train import train
    from ropo.training.distributed.processes import rank

    quiet_libraries()
    if rank():
        logging.getLogger("ropo").setLevel(logging.ERROR)  # the first process says the same
    options = read_train_options(arguments)
    console = Console(highlight=False, soft_wrap=True, quiet=rank() > 0)
    if options.plan:
        print_plan(options, console)
    elif record := train(options, console):
        _tell(options.output, record, console)


def _tell(folder: Path, record: RunRecord, console: Console) -> None:
    """Tell what came out, where it is, and what to do next."""
    from ropo.core.output import display

    metrics, method = record.metrics, record.config["method"]
    if "held_out" in metrics:
        for line in _held_out_lines(metrics["held_out"]):
            console.print(line)
    output = display(folder)
    what = "model" if method == "full" else "adapter"
    timed = "training and measuring" if "held_out" in metrics else "training"
    console.print(f"saved     the {what} in {output}; {timed} took {timedelta(seconds=round(metrics['seconds']))}")
    commands = {
        "generate": f"ropo generate {output} --prompts PROMPTS.jsonl --output ANSWERS.jsonl",
        "diagnose": f"ropo diagnose {output} --output DIAGNOSIS.json",
        "merge": f"ropo merge {output} --output {output}-merged",
    }
    if method == "full" or (record.config["stop_on_warning"] and metrics.get("warnings")):  # nothing to build on
        del commands["merge"]
    for number, command in enumerate(commands.values()):
        console.print(f"{'next' if not number else '':<10}{command}")


def _held_out_lines(held_out: dict[str, Any]) -> list[str]:
    """Write the held-out measurements as lines for a reader."""
    interval = held_out["margin_interval"]
    between = "one pair, no interval" if interval is None else "95 % interval {:+.4f} to {:+.4f}".format(*interval)
    return [
        f"held out  margin {held_out['margin']:+.4f} ({between}; 0 before) on {held_out['pairs']} pairs, "
        f"accuracy {held_out['accuracy']:.2f}, loss {held_out['loss']:.4f} (0.6931 before)",
        f"          log-probs: chosen {held_out['chosen_before']:.1f} -> {held_out['chosen_after']:.1f}, "
        f"rejected {held_out['rejected_before']:.1f} -> {held_out['rejected_after']:.1f}; "
        f"chosen likelier than rejected: {held_out['prefers_chosen_before']:.2f} -> "
        f"{held_out['prefers_chosen_after']:.2f}",
    ]
