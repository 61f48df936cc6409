"""What a comparison found, as tables for a terminal."""

from __future__ import annotations

__all__ = ["print_comparison"]

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ropo.comparison.frontier.quantities import best_point
from ropo.comparison.results import ComparisonResult, EqualGain, RunPath
from ropo.comparison.summary import methods_of
from ropo.diagnostics.table import FRAME, deal, digits, interval, make_table
from ropo.evaluation.path.results import PathResult
from ropo.report.equal_gain import FIRST, behind, equal_gains_of, verdict
from ropo.report.tables import MethodRow, SummaryCell, summary_rows

_HEAD = 40  # columns of a terminal that the first column takes
_REACHED = {  # heading and format of what is shown of a run
    "pass": ("passes", "+.2f"),
    "loss": ("loss drop", ".3f"),
    "forgetting": ("text", "+.3f"),
    "kl": ("KL", ".3f"),
    "length": ("tokens", "+.0f"),
}
_COSTS = {"forgetting": ".3f", "kl": ".3f", "length": ".1f"}
_SHOWN = (0.5, 1.0)  # shares of the common gain; the page has the others


def print_comparison(result: ComparisonResult, console: Console) -> None:
    """Print each data set's changes from the untrained model, what equal gains cost, and which runs were lost.

    Methods that do not fit beside each other get another table, as a number that is cut is none.
    """
    for data in dict.fromkeys(run.data for run in result.runs):
        columns, rows = summary_rows(result, data, methods_of(result, data))
        for part in deal(rows, _width, console.width) if columns else []:
            lines = [
                [f"{column.title} ({column.suite.result.suite})", *(_text(row.cells[place]) for row in part)]
                for place, column in enumerate(columns)
            ]
            title = f"{data}: beside the untrained model, 95 % interval, n"
            console.print(make_table(title, ["", *(row.method.method for row in part)], lines))
        if measured := [(run, run.path) for run in result.paths if run.data == data and run.path is not None]:
            console.print(_paths_table(data, measured))
        for method in dict.fromkeys(each.method for each in equal_gains_of(result, data)):
            _print_equal_gains([each for each in equal_gains_of(result, data) if each.method == method], console)
        for row in rows:
            for run, seeds in row.losses:
                which = f"{run.method}, seed {', '.join(map(str, seeds))}"
                console.print(f"{run.status}: {which}: {run.reason}", highlight=False, markup=False)


def _paths_table(data: str, runs: Sequence[tuple[RunPath, PathResult]]) -> Table:
    """Return what each run of a frontier had reached where it gained most."""
    rows = []
    for run, path in runs:
        step, found = best_point(path)
        reached = [_number(found.get(name), style) for name, (_, style) in _REACHED.items()]
        rows.append([f"{run.method} {run.learning_rate:g}, seed {run.seed}", str(step), *reached])
    heads = ["", "step", *(head for head, _ in _REACHED.values())]
    return make_table(f"{data}: change of each run where it gained most", heads, rows)


def _print_equal_gains(found: Sequence[EqualGain], console: Console) -> None:
    shown = [each for each in found if each.share in _SHOWN and each.gain in FIRST]
    if not shown:
        return
    rows = []
    for each in shown:
        style = _COSTS[each.cost]
        sure = " *" if verdict(each) in ("less", "more") else ""
        rows.append(
            (
                f"{each.cost} at {each.gain} {each.level:.2g}",
                _number(each.value.value, style),
                _number(each.other.value, style),
                f"{_number(each.difference.value, f'+{style}')}{sure}",
                _number(each.difference.low, style),
                _number(each.difference.high, style),
            )
        )
    title = f"{found[0].data}: least cost at an equal gain, {found[0].method} and {found[0].against}"
    console.print(make_table(title, ("", "former", "latter", "difference", "from", "to"), rows))
    console.print(
        "forgetting and KL in nats per token, length in tokens; at a half and all of the gain that both reach; * where "
        f"the 95 % interval excludes 0; {behind(*shown)}",
        highlight=False,
        markup=False,
    )


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else f"{value:{style}}"


def _text(cell: SummaryCell) -> str:
    found = cell.change or cell.estimate
    if found.value is None:
        return "-"
    text = f"{found.value:+.3g}" if cell.change else digits(found.value)
    return f"{text}{interval(found.low, found.high)} n={cell.units}"


def _width(rows: Sequence[MethodRow]) -> int:
    return _HEAD + sum(FRAME + max(len(row.method.method), *(len(_text(cell)) for cell in row.cells)) for row in rows)
