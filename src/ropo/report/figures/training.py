"""What the trainer logged, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ropo.comparison.results import RunResult
from ropo.comparison.summary import MethodRuns
from ropo.report.figures.style import Chart, Mark, View, figure
from ropo.report.text import label

CHOSEN, REJECTED = "logps/chosen", "logps/rejected"
FIRST = ("rewards/margins", "loss", "rewards/accuracies")  # then whatever else was logged, by name
NO_SERIES = {"step", "epoch", "seconds", "total_flos", CHOSEN, REJECTED}
NAMES = {"rewards/margins": "margin (beta times the gain of chosen over rejected)", "rewards/accuracies": "accuracy"}


def log_probs_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart:
    """Draw the log-probs of chosen and rejected answers of the training batches."""
    title = "Chosen and rejected log-probs over training"
    runs = [run for method in methods for run in method.runs if series(run, CHOSEN)[0]]
    if not runs:
        return Chart(key, title, "No run logged them.", "Shown")
    both = View("both", _lines(runs, (CHOSEN, REJECTED), marks, "summed log-prob of an answer in nats"))
    each = [View(name, _lines(runs, (one,), marks, f"log-prob of {name} in nats")) for name, one in zip(("chosen", "rejected"), (CHOSEN, REJECTED), strict=True)]
    caption = "Means of training batches, as the trainer logged them: chosen solid, rejected dashed. Both falling is a known habit of DPO."
    return Chart(key, title, caption, "Answers", [both, *each])


def series_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart:
    """Draw everything else that was logged, margin first."""
    runs = [run for method in methods for run in method.runs]
    logged = {name for run in runs for line in run.curves for name in line} - NO_SERIES
    repeated = sorted(name for name in logged if any(len(series(run, name)[0]) > 1 for run in runs))
    names = [name for name in FIRST if name in repeated] + [name for name in repeated if name not in FIRST]
    views = [View(NAMES.get(name, name), _lines(runs, (name,), marks, NAMES.get(name, name))) for name in names]
    caption = "A gap is a step where the number was not finite." if views else "No run logged anything."
    return Chart(key, "Margin, loss and all else that was logged", caption, "Shown", views)


def series(run: RunResult, name: str) -> tuple[list[float | None], list[float | None]]:
    """Return the steps and the values of one logged number; None where it was not finite."""
    lines = [line for line in run.curves if name in line and "step" in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def _lines(runs: Sequence[RunResult], names: Sequence[str], marks: Mapping[str, Mark], y: str) -> go.Figure:
    traces = []
    for run in runs:
        for name in names:
            steps, values = series(run, name)
            if steps:
                mark = marks[run.method]
                traces.append(
                    go.Scatter(
                        x=steps,
                        y=values,
                        mode="lines" if len(steps) > 1 else "markers",
                        name=f"{label(run.method)}, seed {run.seed}, {label(name)}",
                        line={"color": mark.colour, "width": 1.5, "dash": "dash" if name == REJECTED else "solid"},
                        connectgaps=False,
                        meta=mark.meta(run.seed),
                    )
                )
    return figure(traces, "optimizer step", y)
