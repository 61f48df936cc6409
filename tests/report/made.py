"""A comparison made up by hand, with everything that a page can meet, and a reader of pages."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from ropo.comparison.frontier.curves import Draws
from ropo.comparison.frontier.equal_gain import equal_gains
from ropo.comparison.results import (
    ChosenRate,
    ComparisonResult,
    CosineHistogram,
    DataSuite,
    NeuronProjection,
    RunPath,
    RunResult,
    SideBySideAnswers,
    TriedRate,
)
from ropo.core.record import RunRecord, Source
from ropo.diagnostics.movement import CosineChanges, NeuronMovement
from ropo.diagnostics.report import DiagnosticReport, LayerSummary
from ropo.diagnostics.weights import LayerMeasure, WeightChange, WeightMeasure
from ropo.evaluation.results import Change, Metric, ModelResult, SuiteResult
from tests.comparison.made_paths import answers, lost_path, run_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
METHODS = ("RoPO", "LoRA", "full")
SUITES: dict[str, tuple[str, ...]] = {
    "preference": ("accuracy", "margin", "chosen_gain", "rejected_gain"),
    "instructions": ("passes", "tokens"),
    "diversity": ("distinct_2", "self_bleu"),
    "knowledge": ("arc_easy/acc", "text/perplexity"),
}
DIVERGED, FAILED = "training diverged: the loss is nan at step 2", "target_modules: there is no layer 'q_prj'"


def make_result(data: tuple[str, ...] = ("one", "two"), seeds: tuple[int, ...] = (0, 1, 2)) -> ComparisonResult:
    """Return a comparison: three methods that finish, a hot one whose last seed finishes, and a broken one."""
    draw = random.Random(0)
    runs, suites, samples, selections = [], [], [], []
    for name in data:
        mine = [make_run(name, method, seed, draw) for method in METHODS for seed in seeds]
        mine += [lost_run(name, "hot", seed, "diverged", DIVERGED) for seed in seeds[:-1]]
        mine += [make_run(name, "hot", seeds[-1], draw)]
        mine += [lost_run(name, "broken", seed, "failed", FAILED) for seed in seeds]
        reference = RunResult(
            name=f"{name}/reference", data=name, method="reference", seed=0, learning_rate=None, status="finished"
        )
        runs += [reference, *mine]
        measured = [reference.name, *(run.name for run in mine if run.status == "finished")]
        suites += [make_suite(name, suite, measured, draw) for suite in SUITES]
        answers = {each: f"answer of {each}\nsecond line" for each in measured}
        samples.append(
            SideBySideAnswers(data=name, prompt=f"prompt of {name}", answers=answers, passed={measured[0]: False})
        )
        tried = [TriedRate(learning_rate=1e-3, status="finished", value=0.61, low=0.5, high=0.7)]
        tried += [TriedRate(learning_rate=1e-2, status="diverged", value=None)]
        selections.append(ChosenRate(data=name, method="RoPO", criterion="lowest loss", candidates=tried, chosen=1e-3))
    paths = [path for name in data for path in make_paths(name, seeds, draw)]
    return ComparisonResult(
        title="Made up",
        command=["compare", "recipe.yaml", "--output", "out dir"],
        created=datetime(2026, 1, 2, tzinfo=UTC),
        device="a device",
        git_commit=COMMIT,
        recipe={"title": "Made up"},
        runs=runs,
        suites=suites,
        samples=samples,
        selections=selections,
        paths=paths,
        equal_gains=equal_gains(paths, "LoRA", Draws(resamples=50)),
        notes=["a note"],
    )


def make_paths(data: str, seeds: tuple[int, ...], draw: random.Random) -> list[RunPath]:
    """Return the paths of two methods at two rates, and of a rate that diverged."""
    before = answers([0.0, 1.0], [20.0, 30.0])
    paths = [lost_path("RoPO", 4e-3, seed, data) for seed in seeds]
    for method in ("RoPO", "LoRA"):
        for rate in (1e-3, 2e-3):
            for seed in seeds:
                points = [
                    (
                        [step * draw.random() for _ in range(4)],
                        [step * draw.random() / 10 for _ in range(3)],
                        answers([draw.random(), 1.0], [20.0, 30 + draw.random()], [draw.random(), draw.random()]),
                    )
                    for step in (1, 2)
                ]
                paths.append(run_path(method, points, rate, seed, before, data=data))
    return paths


def make_run(data: str, method: str, seed: int, draw: random.Random) -> RunResult:
    """Return a finished run with numbers drawn."""
    name = f"{data}/{method}/seed{seed}"
    curves: list[dict[str, float | None]] = [
        {
            "step": float(step),
            "loss": None if step == 2 else draw.random(),
            "logps/chosen": -draw.random(),
            "logps/rejected": -draw.random(),
            "rewards/margins": draw.random(),
        }
        for step in (1, 2, 3)
    ]
    record = RunRecord(
        command=["train", "--seed", str(seed)],
        status="finished",
        seed=seed,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        config={"method": method, "trainer": {}},
        model=Source(name="base", sha256="a" * 64),
        data={"train": Source(name="train.jsonl", sha256="b" * 64, counts={"pairs": 12})},
        metrics={
            "trainable_share": 0.000151,
            "trainable_parameters": 1234,
            "monitor": {"step": 20, "kl_per_token": 0.0421, "kl_per_token_low": 0.031, "kl_per_token_high": 0.053},
            "warnings": {"displacement": {"step": 10, "value": -0.2}},
        },
        device="a device",
        git_commit=COMMIT,
    )
    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    return RunResult(
        name=name,
        data=data,
        method=method,
        seed=seed,
        learning_rate=2e-3,
        status="finished",
        command=["train", "--output", f"runs/{name}"],
        record=record,
        curves=curves,
        diagnosis=make_diagnosis(name, draw),
        diagnosis_command=["diagnose", f"runs/{name}"],
        cosines=[CosineHistogram(layer="layers.0.q_proj", edges=edges, before=[0, 3, 4, 0], after=[0, 2, 4, 1])],
        neurons=NeuronProjection(
            layer="layers.0.q_proj",
            explained=(0.25, 0.125),
            before=[(0.1, 0.2), (0.3, 0.4), (-0.5, 0.6)],
            after=[(draw.random(), draw.random()) for _ in range(3)],
        ),
    )


def lost_run(data: str, method: str, seed: int, status: Any, reason: str) -> RunResult:
    """Return a run that did not finish."""
    name = f"{data}/{method}/seed{seed}"
    return RunResult(
        name=name,
        data=data,
        method=method,
        seed=seed,
        learning_rate=10.0,
        status=status,
        reason=reason,
        command=["train", "--output", name],
    )


def make_diagnosis(name: str, draw: random.Random) -> DiagnosticReport:
    """Return the diagnosis of a model of two layers."""
    layers = [
        LayerMeasure(
            name=f"model.layers.{number}.q_proj",
            weight=WeightMeasure(
                neurons=4,
                inputs=4,
                zero_neurons=0,
                energy=10 + draw.random(),
                energy_standard_error=None,
                cosines=None,
                effective_rank=None,
                isotropy=None,
            ),
            change=WeightChange(
                energy=0.1 * (draw.random() - 0.5),
                cosines=CosineChanges(pairs=6, rms=0.1, median=0.1, p99=0.2, largest=0.3, collapsed=0),
                neurons=NeuronMovement(
                    turn_mean=1.0,
                    turn_largest=2.0,
                    magnitude_smallest=0.9,
                    magnitude_mean=1.0,
                    magnitude_largest=1.1,
                    distance=0.1,
                ),
            ),
            rotations=[],
        )
        for number in (0, 1)
    ]
    summary = LayerSummary(
        layers=2,
        energy=draw.random(),
        energy_change=draw.random() * 1e-9,
        largest_cosine_change=draw.random(),
        collapsed_pairs=3,
        largest_orthogonality_error=None,
    )
    return DiagnosticReport(
        model=f"runs/{name}",
        reference="base",
        seed=7,
        versions={"python": "3.11"},
        git_commit=COMMIT,
        summary=summary,
        layers=layers,
        behaviour=None,
        answers=None,
        text=None,
        warnings=["collapsed_pairs is above 0"],
    )


def make_suite(data: str, suite: str, names: list[str], draw: random.Random) -> DataSuite:
    """Return a suite's result for all runs, the first being the reference."""
    models = []
    for place, name in enumerate(names):
        metrics = [
            make_metric(metric, draw, flattered="/hot/" in name)
            for metric in SUITES[suite]
            if place or metric not in ("accuracy", "margin")
        ]
        changes = [
            Change(
                **make_metric(each.name, draw).model_dump(), reference=names[0], p_value=draw.random(), test="mcnemar"
            )
            for each in metrics
            if place
        ]
        models.append(ModelResult(name=name, source="source", fingerprint="c" * 64, metrics=metrics, changes=changes))
    result = SuiteResult(
        suite=suite,
        command=["evaluate", suite],
        settings={"samples": 2},
        data={"prompts": Source(name="prompts.jsonl", sha256="d" * 64, counts={"prompts": 5})},
        models=models,
        notes=[f"a note on {suite}"],
        seed=11,
        git_commit=COMMIT,
    )
    return DataSuite(data=data, result=result, commands={name: ["evaluate", suite, name] for name in names})


def make_metric(name: str, draw: random.Random, flattered: bool = False) -> Metric:
    """Return a metric with an interval around a drawn value, or one that is better than all others."""
    value = draw.random()
    if flattered:
        value += -2.0 if name in ("self_bleu", "text/perplexity") else 2.0
    return Metric(
        name=name,
        value=value,
        low=value - 0.1 - draw.random() / 10,
        high=value + 0.1 + draw.random() / 10,
        count=draw.randrange(10, 1000),
        meaning=f"what {name} is; bootstrap over prompts",
    )


class Page(HTMLParser):
    """Read a page: its elements, its numbers, and what a reader sees.

    Attributes:
        elements: Tag and attributes of every element.
        numbers: For each `data` element the text of its row's head, its value and its text.
        text: All text outside of scripts and styles.
        scripts: The content of scripts that run.
        figures: The data of the figures.
        bold: The heads of rows with a bold cell.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.text, self.scripts, self.figures = "", [], {}
        self.bold: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._head, self._in_head = "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attributes))
        self.elements.append(element)
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(element)
        if tag == "th":
            self._in_head, self._head = True, ""
        if tag == "strong" and element[1].get("class") == "best":
            self.bold.append(self._head)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop()[0] == tag, f"{tag} closes nothing"
        if tag == "th":
            self._in_head = False
        if tag == "table":
            self._head = ""

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.figures = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self.text += data
            if self._in_head:
                self._head += data
            if tag == "data":
                self.numbers.append((" ".join(self._head.split()), attributes["value"] or "", data))


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</pre></div></details><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "' autofocus onfocus=alert(1) '",
    "<!-- --><!--<script>",
    "]]></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "\u202egnp.exe\u2066 \u200f",
    "\x00\x1b[31m\x08",
    "x" * 5000,
    "&lt;b&gt; &amp; \u2028\u2029",
    "javascript:alert(1)",
]


def hostile_result(text: str) -> ComparisonResult:
    """Return a result with a text wherever a model, a file or a recipe could have brought it."""
    made = make_result(("one",), (0,))
    name = f"{text}/m"
    run = next(run for run in made.runs if run.method == "RoPO")
    record = run.record.model_copy(update={"config": {"method": text}, "device": text, "git_commit": text})
    evil = run.model_copy(
        update={"name": name, "data": text, "method": text, "command": [text], "record": record, "reason": text}
    )
    lost = evil.model_copy(update={"name": f"{name}2", "seed": 5, "status": "diverged", "record": None})
    suites = []
    for suite in made.suites:
        models = [
            model.model_copy(update={"name": name}) if model.name == run.name else model
            for model in suite.result.models
        ]
        metrics = [each.model_copy(update={"meaning": text}) for each in models[-1].metrics]
        models[-1] = models[-1].model_copy(update={"metrics": metrics})
        inner = suite.result.model_copy(update={"models": models, "notes": [text], "settings": {text: text}})
        suites.append(suite.model_copy(update={"data": text, "result": inner, "commands": {name: [text]}}))
    sample = made.samples[0].model_copy(update={"data": text, "prompt": text, "answers": {name: text}})
    runs = [each.model_copy(update={"data": text}) for each in made.runs if each is not run]
    parts = {"runs": [*runs, evil, lost], "suites": suites, "samples": [sample], "title": text, "notes": [text]}
    parts["paths"] = [
        each.model_copy(
            update={
                "data": text,
                "method": text if each.method == "RoPO" else each.method,
                "command": [text],
                "reason": text,
            }
        )
        for each in made.paths
    ]
    parts["equal_gains"] = [each.model_copy(update={"data": text, "method": text}) for each in made.equal_gains]
    return changed(made, recipe={text: text}, **parts)


def changed(result: ComparisonResult, **parts) -> ComparisonResult:
    """Return a result with parts replaced, through JSON as it would be read."""
    return ComparisonResult.model_validate_json(result.model_copy(update=parts).model_dump_json())
