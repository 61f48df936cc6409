"""The recipe of a comparison: what is trained on what, with which budget, and how it is measured."""

from __future__ import annotations

__all__ = ["REFERENCE"]

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from ropo.comparison.frontier.options import Frontier
from ropo.comparison.places import resolve, resolve_all
from ropo.core.names import did_you_mean
from ropo.core.settings import Settings
from ropo.evaluation.suites import STRENGTH, SUITES
from ropo.methods import METHODS

Criterion = Literal["loss", "accuracy", "margin"]
_Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Rate = Annotated[float, Field(gt=0)]
_Options = dict[str, Any]

REFERENCE = "reference"

# What the budget, the seeds, the data and the comparison itself decide, the same for every method.
_DECIDED = {
    "model": "model",
    "data": "data",
    "split": "data",
    "eval_data": "data",
    "eval_split": "data",
    "output": "--output",
    "output_dir": "--output",
    "overwrite": "--output",
    "config": "the recipe",
    "resume": "the comparison",
    "resume_from_checkpoint": "the comparison",
    "seed": "seeds",
    "max_steps": "budget",
    "num_train_epochs": "budget",
    "per_device_train_batch_size": "budget",
    "gradient_accumulation_steps": "budget",
}
_SHARED = dict.fromkeys(("max_length", "truncation_mode", "skip_long_prompts", "plain_prompts"), "training")


class _OpenPart(Settings):
    """A part whose further keys are the flags of a ropo command."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def options(self) -> _Options:
        """The further keys."""
        return dict(self.model_extra or {})


class PairSource(Settings):
    """Name preference pairs: file, folder or hub id, and its split."""

    source: str
    split: str


class DataSet(Settings):
    """One data set; runs are comparable within it.

    Attributes:
        name: What its runs are called after.
        train: Training pairs.
        validation: Validation pairs, which learning rates are selected on and the monitor watches.
        validation_share: Share of the training prompts to take out for validation instead.
        test: Held-out pairs, read by evaluations only.
        prompts: Held-out prompts for evaluations that sample answers.
    """

    name: _Name
    train: PairSource
    validation: PairSource | None = None
    validation_share: float | None = Field(None, gt=0, lt=1)
    test: PairSource
    prompts: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        named = {name: values[name] for name in ("train", "validation", "test") if isinstance(values.get(name), str)}
        return {**values, **{name: {"source": source, "split": name} for name, source in named.items()}}

    @model_validator(mode="after")
    def _check_validation(self) -> DataSet:
        if self.validation is not None and self.validation_share is not None:
            raise ValueError("takes validation or validation_share, not both; remove one")
        return self

    @property
    def validated(self) -> bool:
        """Whether there are validation pairs."""
        return self.validation is not None or self.validation_share is not None


class Budget(Settings):
    """What every run may use: pairs, or tokens (a shared prompt counted once), and the batch."""

    pairs: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _check_unit(self) -> Budget:
        if (self.pairs is None) == (self.tokens is None):
            raise ValueError("needs either pairs or tokens")
        return self


class MethodRecipe(_OpenPart):
    """One method: its label, its name in `ropo.methods.METHODS`, its rate or rates, and options of `ropo train`.

    `learning_rates` are tried with the first seed, with a frontier with every seed, and the best on the validation
    pairs is kept.
    """

    label: _Label
    method: str
    learning_rate: _Rate | None = None
    learning_rates: tuple[_Rate, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> MethodRecipe:
        if self.method not in METHODS:
            hint = did_you_mean(self.method, METHODS) or f"; choose from {', '.join(METHODS)}"
            raise ValueError(f"method: there is no method {self.method!r}{hint}")
        if (self.learning_rate is None) == (not self.learning_rates):
            raise ValueError("needs either learning_rate or learning_rates")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates: has a rate twice; remove one")
        _refuse(self.options, _DECIDED | _SHARED)
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to try."""
        return self.learning_rates or ((self.learning_rate,) if self.learning_rate is not None else ())


class Evaluation(_OpenPart):
    """One evaluation: the suite, the data sets that it is for (all where empty), and the suite's flags."""

    suite: str
    only: tuple[_Name, ...] = ()

    @model_validator(mode="after")
    def _check_suite(self) -> Evaluation:
        if self.suite not in SUITES:
            hint = did_you_mean(self.suite, SUITES) or f"; choose from {', '.join(SUITES)}"
            raise ValueError(f"suite: there is no suite {self.suite!r}{hint}")
        if self.suite == STRENGTH:
            raise ValueError(
                f"suite: {STRENGTH} turns single adapters; run `ropo evaluate {STRENGTH}` on the finished runs"
            )
        _refuse(self.options, dict.fromkeys(("models", "output", "overwrite", "cache"), "the comparison"))
        return self


class Recipe(Settings):
    """A whole comparison.

    Attributes:
        title: What is compared, in words.
        model: Hub id, folder or `.gguf` file, or `package:NAME/FILE`, a file that an installed package brings.
        data: The data sets.
        seeds: Every method is trained once a seed; learning rates are tried with the first, with a frontier with all.
        split_seed: Seed of the validation split.
        budget: What a run may use.
        training: Options of `ropo train` that all methods share; a method may say otherwise.
        methods: The methods in the order of the report; the untrained reference comes first by itself.
        selection: What is compared on the validation pairs: `loss`, DPO's with the method's beta; `accuracy`; `margin`.
        frontier: What is measured along every run, at every rate with every seed; None for nothing.
        evaluations: What is measured on the reference and on every finished run.
        diagnose: Whether weights are diagnosed too.
        samples: Prompts whose first answers are shown side by side.
    """

    title: _Label
    model: str
    data: tuple[DataSet, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    split_seed: int = Field(0, ge=0)
    budget: Budget
    training: _Options = Field(default_factory=dict)
    methods: tuple[MethodRecipe, ...] = Field(min_length=1)
    selection: Criterion = "loss"
    frontier: Frontier | None = None
    evaluations: tuple[Evaluation, ...] = ()
    diagnose: bool = True
    samples: int = Field(6, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        _refuse(self.training, _DECIDED | {"method": "methods", "learning_rate": "methods"})
        for what, names in (
            ("data", [each.name for each in self.data]),
            ("methods", [slug(each.label) for each in self.methods]),
            ("seeds", list(map(str, self.seeds))),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what}: {twice!r} is there twice; rename or remove one")
        if REFERENCE in (slug(each.label) for each in self.methods):
            raise ValueError(f"methods: {REFERENCE!r} is the untrained model, which is always there; rename it")
        known = [each.name for each in self.data]
        for name in (name for each in self.evaluations for name in each.only):
            if name not in known:
                raise ValueError(f"only: there is no data set {name!r}{did_you_mean(name, known)}")
        swept = [each.label for each in self.methods if len(each.rates) > 1]
        for each in self.data:
            if swept and not each.validated:
                raise ValueError(
                    f"data: {each.name} has no validation pairs to choose the learning rate of {swept[0]} on; "
                    "add validation_share: 0.1"
                )
        if self.frontier is not None:
            self.frontier.check_runs([each.label for each in self.methods], self.data)
        return self

    def placed(self, folder: Path) -> Recipe:
        """Return the recipe with the names of files resolved against the folder that it lies in."""
        values = self.model_dump()
        values["model"] = resolve(self.model, folder)
        for each in values["data"]:
            for name in ("train", "validation", "test"):
                if each[name] is not None:
                    each[name]["source"] = resolve(each[name]["source"], folder)
            each["prompts"] = each["prompts"] and resolve(each["prompts"], folder)
        values["training"] = resolve_all(values["training"], folder)
        for each in values["evaluations"]:
            own = {name: each[name] for name in ("suite", "only")}
            each |= resolve_all(each, folder) | own
        if self.frontier is not None:
            values["frontier"]["text"] = resolve(self.frontier.text, folder)
        return Recipe.model_validate(values)


def slug(label: str) -> str:
    """Return a label as a part of a file name: `RoPO without magnitude` is `ropo-without-magnitude`."""
    words = "".join(letter if letter.isalnum() else " " for letter in label.lower()).split()
    return "-".join(words) or "method"


def _refuse(options: _Options, decided: dict[str, str]) -> None:
    for name in options:
        if name in decided:
            raise ValueError(f"{name}: is decided by {decided[name]}; remove it here")
