"""From a comparison's result to one HTML file that needs no other."""

from __future__ import annotations

__all__ = ()

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ropo.comparison.frontier.curves import methods_of_paths
from ropo.comparison.results import ChosenRate, ComparisonResult, DataSuite, EqualGain, RunResult, SideBySideAnswers
from ropo.comparison.summary import MethodRuns, methods_of
from ropo.core.files import write_atomically
from ropo.report.equal_gain import COST_WORDS, GAIN_WORDS, behind, equal_gains_of, headlines, verdict
from ropo.report.figures.estimates import estimates_chart, frontier_chart
from ropo.report.figures.frontier import frontier_charts, paths_chart
from ropo.report.figures.style import Chart, marks_of
from ropo.report.figures.training import log_probs_chart, series_chart
from ropo.report.figures.weights import cosines_chart, energy_chart, neurons_chart, weights_in_words
from ropo.report.headline import LIKELIHOOD, Column, all_columns, suites_of
from ropo.report.tables import MethodRow, SuiteRow, Watched, change_lines, suite_table, summary_rows, watched_runs
from ropo.report.text import command_line, embedded_json, number, setting, visible


@dataclass(frozen=True)
class _Panel:
    """What the page shows of one data set; a chart that has nothing to draw is None or not there."""

    key: str
    name: str
    headlines: list[str]
    methods: list[MethodRuns]
    runs: list[RunResult]
    columns: list[Column]
    rows: list[MethodRow]
    frontier: list[Chart]
    lost: str
    equal_gains: list[EqualGain]
    training: list[Chart]
    answers: list[Chart]
    charts: dict[str, Chart | None]
    weights_words: list[str]
    samples: list[SideBySideAnswers]
    selections: list[ChosenRate]
    suites: list[tuple[DataSuite, list[Column], list[SuiteRow]]]
    watched: list[Watched]

    @property
    def drawn(self) -> list[Chart]:
        """Every chart that there is."""
        return [*self.frontier, *self.training, *self.answers, *filter(None, self.charts.values())]

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Key and title of every section, in order, for the page's navigation."""
        known = {
            "summary": "Summary",
            "frontiers": "Frontiers" if self.frontier else "",
            "equal": "Cost of an equal gain" if self.frontier and self.equal_gains else "",
            "quality": "Quality and forgetting" if self.charts["frontier"] else "",
            "training": "Training" if self.training else "",
            "answers": "Answers" if self.answers else "",
            "weights": "Weights",
            "samples": "Samples" if self.samples else "",
            "numbers": "All numbers",
            "rates": "Learning rates" if self.selections else "",
        }
        return [(key, title) for key, title in known.items() if title]


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
    charts = {chart.key: [view.as_json() for view in chart.views] for panel in panels for chart in panel.drawn}
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
            gain_words=GAIN_WORDS,
            cost_words=COST_WORDS,
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
    frontier = frontier_charts(f"{key}-path", result, data, marks)
    training = [
        paths_chart(f"{key}-along", result, data, marks),
        log_probs_chart(f"{key}-logps", methods, marks),
        series_chart(f"{key}-series", methods, marks),
    ]
    of_answers = [
        estimates_chart(f"{key}-likelihood", "Chosen and rejected answers, held out", likelihood, methods, marks),
        estimates_chart(f"{key}-answers", "Length and diversity of answers", answers, methods, marks),
    ]
    gains = equal_gains_of(result, data)
    return _Panel(
        key=key,
        name=data,
        headlines=headlines(gains) or change_lines(columns, rows),
        methods=methods,
        runs=runs,
        columns=columns,
        rows=rows,
        frontier=frontier,
        lost=_lost_rates(result, data),
        equal_gains=gains,
        training=[chart for chart in training if chart is not None],
        answers=[chart for chart in of_answers if chart is not None],
        charts={
            "frontier": frontier_chart(f"{key}-frontier", result, data, methods, marks),
            "energy": energy_chart(f"{key}-energy", methods, marks),
            "cosines": cosines_chart(f"{key}-cosines", methods, marks),
            "neurons": neurons_chart(f"{key}-neurons", methods, marks),
        },
        weights_words=weights_in_words(methods),
        samples=[sample for sample in result.samples if sample.data == data],
        selections=[selection for selection in result.selections if selection.data == data],
        suites=[(suite, *suite_table(suite, runs)) for suite in suites],
        watched=watched_runs(runs),
    )


def _lost_rates(result: ComparisonResult, data: str) -> str:
    """Say which rates a frontier leaves out, as not all of their seeds could be measured."""
    lost = [f"{each.method} at {setting(rate)}" for each in methods_of_paths(result.paths, data) for rate in each.lost]
    return f"Left out, as not every seed finished and was measured: {', '.join(lost)}." if lost else ""


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
    environment.filters |= {"verdict": verdict, "behind": behind, "share": lambda share: f"{100 * share:g} %"}
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    return environment


def _asset(name: str) -> str:
    return (files("ropo.report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
