"""What `ropo train` says when it is done: what came out, where it is, and what to do next."""

from __future__ import annotations

__all__ = ()

from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from ropo.core.output import display
from ropo.core.record import RunRecord


def report(folder: Path, record: RunRecord, console: Console) -> None:
    """Tell what came out, where it is, and what to do next."""
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
