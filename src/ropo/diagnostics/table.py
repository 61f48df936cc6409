"""Print a diagnostic report as tables that a person can read."""

from __future__ import annotations

__all__ = ["FRAME", "deal", "digits", "interval", "make_table", "print_report"]

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from ropo.core.record import Measure
from ropo.diagnostics.comparison import AnswerComparison, TextComparison
from ropo.diagnostics.report import DiagnosticReport
from ropo.diagnostics.signals import FEWEST

FRAME = 3  # columns of a terminal that a column of a table takes beside its text
_Column = TypeVar("_Column")


def print_report(report: DiagnosticReport, console: Console, with_layers: bool = False) -> None:
    """Print the report: the verdict first, then behaviour, answers and text where measured, and layers if asked for."""
    console.print(f"[bold]verdict[/]   {_verdict(report)}", highlight=False, soft_wrap=True)
    for warning in report.warnings:
        console.print(f"[bold yellow]warning[/]   {warning}", highlight=False, soft_wrap=True)
    for line in _summary_lines(report):
        console.print(f"weights   {line}", highlight=False, soft_wrap=True)
    if report.behaviour is not None:
        rows = [(name.replace("_", " "), digits(value)) for name, value in _numbers(report.behaviour).items()]
        console.print(make_table("Held-out pairs, in nats", ("", "value"), rows))
    if report.answers is not None:
        console.print(_answer_table(report.answers))
    if report.text is not None:
        console.print(_text_table(report.text))
    if with_layers:
        console.print(_layer_table(report))


def _verdict(report: DiagnosticReport) -> str:
    """Say in one sentence what the numbers amount to, and what was not looked at."""
    if report.reference is None:
        return "described on its own: nothing to compare with, so nothing can warn (--reference names a model)"
    parts = {
        "weights": report.layers,
        "held-out pairs (--pairs)": report.behaviour,
        "answers (--prompts)": report.answers,
        "plain text (--text)": report.text,
    }
    missing = [name for name, found in parts.items() if not found]
    unseen = f"; not looked at: {', '.join(missing)}" if missing else ""
    if few := [f"{count} {units}" for units, count in _units(report).items() if count < FEWEST]:
        unseen += f"; too few to warn: {', '.join(few)}, where it takes {FEWEST}"
    if not report.warnings:
        return f"no warning against {report.reference}{unseen}"
    names = ", ".join(warning.partition(":")[0] for warning in report.warnings)
    return f"{len(report.warnings)} warning(s) against {report.reference}: {names}{unseen}"


def _units(report: DiagnosticReport) -> dict[str, int]:
    """Return of how many units each measured sample is; a change of too few is never more than chance."""
    units = {}
    if report.behaviour is not None:
        units["held-out pairs"] = report.behaviour.pairs
    if report.answers is not None:
        units["answered prompts"] = len(report.answers.policy.tokens_by_prompt)
    if report.text is not None:
        units["pieces of plain text"] = len(report.text.policy.losses)
    return units


def _layer_table(report: DiagnosticReport) -> Table:
    columns = {"energy": "weight.energy", "cos>0.9": "weight.cosines.share_above_0_9", "rank": "weight.effective_rank"}
    if any(layer.change is not None for layer in report.layers):
        columns |= {"energy change": "change.energy", "cos change p99": "change.cosines.p99"}
        columns |= {"largest": "change.cosines.largest", "turn °": "change.neurons.turn_mean"}
        columns |= {"length ×": "change.neurons.magnitude_mean"}
    rows = [
        [layer.name, str(layer.weight.neurons), *(_at(layer, path) for path in columns.values())]
        for layer in report.layers
    ]
    if any(layer.rotations for layer in report.layers):
        columns |= {"R-I": "distance", "R'R-I": "orthogonality_error"}
        for row, layer in zip(rows, report.layers, strict=True):
            whole = layer.rotations[0].whole if layer.rotations else None
            row += [_at(whole, "distance"), _at(whole, "orthogonality_error")]
    return make_table(f"Weights of {report.model}", ["layer", "neurons", *columns], rows)


def _at(value: Any, path: str) -> str:
    """Follow a dotted path of attributes to a number; a dash where one of them is None."""
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return digits(value)


def _summary_lines(report: DiagnosticReport) -> list[str]:
    summary = report.summary
    lines = [f"{summary.layers} layers, energy {summary.energy:.8g} in all"]
    if report.reference is not None:
        lines.append(
            f"against {report.reference}: energy change {digits(summary.energy_change)}, largest cosine change "
            f"{digits(summary.largest_cosine_change)}, neuron pairs that collapsed {digits(summary.collapsed_pairs)}"
        )
    return lines


def _answer_table(answers: AnswerComparison) -> Table:
    policy = _numbers(answers.policy)
    reference = _numbers(answers.reference) if answers.reference is not None else {}
    rows = [(name.replace("_", " "), digits(policy[name]), digits(reference.get(name))) for name in policy]
    rows.append(("length ratio", digits(answers.length_ratio), ""))
    if answers.kl is not None:
        error = digits(answers.kl.standard_error)
        rows.append(("prompts behind KL", digits(answers.kl.prompts), ""))
        rows.append(("KL per answer", f"{digits(answers.kl.per_answer)} ± {error} nats", ""))
        between = interval(*(answers.kl.per_token_interval or (None, None)))
        rows.append(("KL per token", f"{digits(answers.kl.per_token)}{between} nats", ""))
    return make_table("Generated answers", ("", "model", "reference"), rows)


def _text_table(text: TextComparison) -> Table:
    policy = _numbers(text.policy)
    reference = _numbers(text.reference) if text.reference is not None else {}
    rows = [(name.replace("_", " "), digits(policy[name]), digits(reference.get(name))) for name in policy]
    return make_table("Plain text, nats per token", ("", "model", "reference"), rows)


def _numbers(measure: Measure) -> dict[str, float | None]:
    """Return the fields that are one number; lists of many are for the JSON."""
    return {name: value for name, value in measure.model_dump().items() if not isinstance(value, list)}


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table whose first column is text, which goes on in the next line, and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row)
    return table


def deal(columns: Sequence[_Column], width_of: Callable[[Sequence[_Column]], int], width: int) -> list[list[_Column]]:
    """Deal columns to tables that are no wider than a console, or hold a single one: a number that is cut is none."""
    tables: list[list[_Column]] = [[]]
    for column in columns:
        if tables[-1] and width_of([*tables[-1], column]) > width:
            tables.append([])
        tables[-1].append(column)
    return tables


def interval(low: float | None, high: float | None) -> str:
    """Write the ends of an interval behind a number; nothing where there is none."""
    return "" if low is None or high is None else f" ({digits(low)} to {digits(high)})"


def digits(value: float | None) -> str:
    """Write a number with three digits, a whole one with all of them, and a dash for none."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3g}"
