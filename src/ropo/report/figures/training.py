"""What the trainer logged, step by step."""

from __future__ import annotations

__all__ = ()

from collections.abc import Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go

from ropo.comparison.results import RunResult
from ropo.comparison.summary import MethodRuns
from ropo.report.figures.style import Chart, Mark, View, figure
from ropo.report.text import label

_Series = tuple[list[float | None], list[float | None]]  # steps and values

_CHOSEN, _REJECTED = "logps/chosen", "logps/rejected"
_SMOOTHED = 8  # a moving mean covers a logged point in so many: batches differ by what is in them
# Then whatever else was logged, by name.
_FIRST = ("rewards/margins", "hacking/kl_per_token", "loss", "rewards/accuracies")
_NO_SERIES = {"step", "epoch", "seconds", "total_flos", _CHOSEN, _REJECTED}
_NAMES = {"rewards/margins": "margin", "rewards/accuracies": "accuracy", "hacking/kl_per_token": "KL in nats per token"}


def log_probs_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart | None:
    """Draw the log-probs of chosen and rejected answers of the training batches; None where no run logged them."""
    title = "Chosen and rejected log-probs over training"
    runs = [run for method in methods for run in method.runs if _series(run, _CHOSEN)[0]]
    if not runs:
        return None
    both = View("both", _lines(runs, (_CHOSEN, _REJECTED), marks, "summed log-prob of an answer in nats"))
    each = [
        View(name, _lines(runs, (one,), marks, f"log-prob of {name} in nats"))
        for name, one in zip(("chosen", "rejected"), (_CHOSEN, _REJECTED), strict=True)
    ]
    caption = (
        f"{_how_smooth(runs)}: chosen solid, rejected dashed; with several seeds thin, and their mean thick. Batches "
        "hold other pairs at every step, so only what lasts counts. Both falling is a known habit of DPO."
    )
    return Chart.of(key, title, caption, "Answers", [both, *each], marks)


def series_chart(key: str, methods: Sequence[MethodRuns], marks: Mapping[str, Mark]) -> Chart | None:
    """Draw everything else that was logged, margin first; None where nothing was."""
    runs = [run for method in methods for run in method.runs]
    logged = {name for run in runs for line in run.curves for name in line} - _NO_SERIES
    repeated = sorted(name for name in logged if any(len(_series(run, name)[0]) > 1 for run in runs))
    names = [name for name in _FIRST if name in repeated] + [name for name in repeated if name not in _FIRST]
    views = [View(_NAMES.get(name, name), _lines(runs, (name,), marks, _NAMES.get(name, name))) for name in names]
    caption = (
        f"{_how_smooth(runs)}. The margin is beta times (gain of chosen - gain of rejected). Several seeds are thin, "
        "their mean thick. A gap is a step where the number was not finite."
    )
    return Chart.of(key, "Margin, loss and all else that was logged", caption, "Shown", views, marks)


def _series(run: RunResult, name: str) -> _Series:
    """Return the steps and the values of one logged number; None where it was not finite."""
    lines = [line for line in run.curves if name in line and "step" in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Return the moving mean over about an eighth of the values, centred, over fewer at the ends; gaps stay gaps."""
    half = _half(values)
    found: list[float | None] = []
    for place, value in enumerate(values):
        near = [each for each in values[max(0, place - half) : place + half + 1] if each is not None]
        found.append(None if value is None else value if half == 0 else fmean(near))
    return found


def _half(values: Sequence[object]) -> int:
    return len(values) // (2 * _SMOOTHED)


def _how_smooth(runs: Sequence[RunResult]) -> str:
    widths = [2 * _half(steps) + 1 for run in runs for name in (_CHOSEN, "loss") if (steps := _series(run, name)[0])]
    if not widths or max(widths) == 1:
        return "Means of training batches, as the trainer logged them"
    return f"Means of training batches, each the moving mean of {max(widths)} that were logged"


def _lines(runs: Sequence[RunResult], names: Sequence[str], marks: Mapping[str, Mark], y: str) -> go.Figure:
    traces = []
    for method in dict.fromkeys(run.method for run in runs):
        for name in names:
            seeds = [
                (run.seed, steps, smoothed(values))
                for run in runs
                if run.method == method
                for steps, values in [_series(run, name)]
                if steps
            ]
            several = len(seeds) > 1
            traces += [_line(marks[method], name, seed, steps, values, thin=several) for seed, steps, values in seeds]
            if several:
                traces.append(_line(marks[method], name, "mean", *_mean_series([each[1:] for each in seeds])))
    return figure(traces, "optimizer step", y)


def _mean_series(seeds: Sequence[_Series]) -> _Series:
    """Return the mean over seeds at the steps that all of them logged; None where one of them was not finite."""
    logged = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    steps = [step for step in seeds[0][0] if all(step in each for each in logged)]
    columns = [[value for each in logged if (value := each[step]) is not None] for step in steps]
    return steps, [fmean(column) if len(column) == len(logged) else None for column in columns]


def _line(
    mark: Mark, name: str, seed: int | str, steps: list[float | None], values: list[float | None], thin: bool = False
) -> go.Scatter:
    return go.Scatter(
        x=steps,
        y=values,
        mode="lines" if len(steps) > 1 else "markers",
        name=f"{label(mark.method)}, {seed if seed == 'mean' else f'seed {seed}'}, {label(name)}",
        line={"color": mark.colour, "width": 1 if thin else 2, "dash": "dash" if name == _REJECTED else "solid"},
        opacity=0.4 if thin else 1.0,
        connectgaps=False,
        meta=mark.meta(seed),
    )
