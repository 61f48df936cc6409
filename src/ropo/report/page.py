"""From a comparison's result to one HTML file that needs no other."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ropo.comparison.results import ComparisonResult, DataSuite, RunResult, Sample, Selection
from ropo.comparison.summary import MethodRuns, methods_of
from ropo.core.files import write_atomically
from ropo.report.figures.estimates import estimates_chart, frontier_chart
from ropo.report.figures.style import Chart, marks_of
from ropo.report.figures.training import log_probs_chart, series_chart
from ropo.report.figures.weights import cosines_chart, energy_chart, neurons_chart
from ropo.report.headline import LIKELIHOOD, Column, all_columns, suites_of
from ropo.report.tables import Row, SuiteRow, Watched, suite_table, summary_rows, watched_runs
from ropo.report.text import command_line, embedded_json, number, setting, visible


@dataclass(frozen=True)
class _Panel:
    """Hold what the page shows of one data set."""

    key: str
    name: str
    methods: list[MethodRuns]
    runs: list[RunResult]
    columns: list[Column]
    rows: list[Row]
    charts: dict[str, Chart]
    samples: list[Sample]
    selections: list[Selection]
    suites: list[tuple[DataSuite, list[Column], list[SuiteRow]]]
    watched: list[Watched]


def write_page(result: ComparisonResult, file: Path) -> None:
    """Write the page of a comparison, whole or not at all.

    Args:
        result: The comparison.
        file: Where the page goes.

    Cost: about 5 MB of plotly's script, and the figures.
    """
    write_atomically(file, render_page(result))


def render_page(result: ComparisonResult) -> str:
    """Return the page of a comparison.

    Everything of the result is untrusted text: the template escapes it, `ropo.report.text` makes it visible, and the
    page's policy lets nothing run but the two scripts that it names by their hashes, and nothing be loaded at all.
    """
    panels = [
        _panel_of(result, name, f"d{number}")
        for number, name in enumerate(dict.fromkeys(run.data for run in result.runs))
    ]
    charts = {
        chart.key: [view.as_json() for view in chart.views] for panel in panels for chart in panel.charts.values()
    }
    scripts = [get_plotlyjs(), _asset("page.js")]
    return (
        _environment()
        .get_template("page.html")
        .render(
            result=result,
            panels=panels,
            marks=marks_of(result),
            names={run.name: f"run-{number}" for number, run in enumerate(result.runs)},
            figures=Markup(embedded_json(charts)),
            scripts=[Markup(script) for script in scripts],
            hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
            style=Markup(_asset("page.css")),
        )
    )


def _panel_of(result: ComparisonResult, data: str, key: str) -> _Panel:
    """Gather what the page shows of one data set."""
    methods, marks = methods_of(result, data), marks_of(result)
    runs = [run for run in result.runs if run.data == data]
    columns, rows = summary_rows(result, data, methods)
    suites = suites_of(result, data)
    everything = [column for suite in suites for column in all_columns(suite)]
    likelihood = [
        each
        for name in LIKELIHOOD
        for each in everything
        if each.suite.result.suite == "preference" and each.name == name
    ]
    answers = [each for each in everything if _is_of_answers(each)]
    charts = [
        frontier_chart(f"{key}-frontier", result, data, methods, marks),
        log_probs_chart(f"{key}-logps", methods, marks),
        series_chart(f"{key}-series", methods, marks),
        estimates_chart(f"{key}-likelihood", "Chosen and rejected answers, held out", likelihood, methods, marks),
        estimates_chart(f"{key}-answers", "Length and diversity of answers", answers, methods, marks),
        energy_chart(f"{key}-energy", methods, marks),
        cosines_chart(f"{key}-cosines", methods, marks),
        neurons_chart(f"{key}-neurons", methods, marks),
    ]
    return _Panel(
        key=key,
        name=data,
        methods=methods,
        runs=runs,
        columns=columns,
        rows=rows,
        charts={chart.key.partition("-")[2]: chart for chart in charts},
        samples=[sample for sample in result.samples if sample.data == data],
        selections=[selection for selection in result.selections if selection.data == data],
        suites=[(suite, *suite_table(suite, runs)) for suite in suites],
        watched=watched_runs(runs),
    )


def _is_of_answers(column: Column) -> bool:
    """Whether a metric tells the length or the diversity of sampled answers."""
    return column.suite.result.suite == "diversity" or column.name in ("tokens", "cut_off", "average_length")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ropo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "number": number, "setting": setting, "command": command_line}
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    return environment


def _asset(name: str) -> str:
    return (files("ropo.report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
