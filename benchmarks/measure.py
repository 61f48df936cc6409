"""Time functions against each other in one process, and say on what."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ropo.core.record import git_commit, library_versions
from ropo.environment import kernels_in_use


def setting() -> dict[str, Any]:
    """Describe device, versions and commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "kernels": kernels_in_use(),
        "python": platform.python_version(),
        "versions": library_versions(),
        "commit": git_commit(),
    }


def interleave(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run the functions in turn, so that a machine's drift meets all of them alike.

    Returns:
        Seconds of each round for each function; one warm-up round is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def summary(seconds: dict[str, list[float]], yardstick: str) -> list[dict[str, Any]]:
    """Return p20, p50 and p80 in milliseconds, and the median over rounds of the ratio to the yardstick."""
    rows = []
    for name, times in seconds.items():
        p20, p50, p80 = (1000 * statistics.quantiles(times, n=10, method="inclusive")[index] for index in (1, 4, 7))
        ratios = [mine / other for mine, other in zip(times, seconds[yardstick], strict=True)]
        rows.append({"name": name, "p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "ratio": statistics.median(ratios)})
    return rows


def report(title: str, rows: list[dict[str, Any]], output: Path | None) -> None:
    """Print a table, and append it with its setting to a JSON Lines file."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "name" else "right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=120).print(table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a") as file:
            file.write(json.dumps({"title": title, "rows": rows, **setting()}) + "\n")
