"""Gains and costs of a path, unit by unit: what a mean over pairs, prompts or windows is taken of.

Each is a ratio sum_i w_i u_pi / sum_i w_i l_pi over units i at point p, so that one draw of weights w resamples every
point of every run: all runs are measured on the same units.
"""

from __future__ import annotations

__all__ = ["COSTS", "GAINS", "LOOKS", "QUANTITIES", "series_of"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ropo.evaluation.path.results import PathPoint, PathResult, SampledAnswers


@dataclass(frozen=True)
class _Quantity:
    """Name something that is measured along a path, as its change from the reference.

    Attributes:
        name: Short and stable.
        title: As an axis is called.
        unit: What it is measured on: `pairs`, `prompts` or `windows`.
    """

    name: str
    title: str
    unit: str


def _by_name(*quantities: _Quantity) -> dict[str, _Quantity]:
    return {each.name: each for each in quantities}


GAINS = _by_name(
    _Quantity("pass", "gain in pass rate of verifiable instructions", "prompts"),
    _Quantity("loss", "drop of the DPO loss on held-out pairs, nats", "pairs"),
    _Quantity("margin", "DPO margin on held-out pairs (times beta), nats", "pairs"),
)
COSTS = _by_name(
    _Quantity("forgetting", "rise of plain-text loss, nats per token", "windows"),
    _Quantity("kl", "KL from the reference, nats per token", "prompts"),
    _Quantity("length", "growth of sampled answers, tokens", "prompts"),
)
LOOKS = _by_name(
    _Quantity("chosen", "log-prob of the chosen answer, change in nats", "pairs"),
    _Quantity("rejected", "log-prob of the rejected answer, change in nats", "pairs"),
    _Quantity("tokens", "length of a sampled answer, tokens", "prompts"),
    _Quantity("repetition", "repeated 4-grams within an answer, share", "prompts"),
)
QUANTITIES = GAINS | COSTS | LOOKS


@dataclass(frozen=True)
class _Series:
    """A quantity along a path, beginning with the reference at step 0.

    Attributes:
        steps: Optimizer steps of the points.
        upper: Numerators.
        lower: Denominators.
    """

    steps: tuple[int, ...]
    upper: Float[np.ndarray, "points units"]
    lower: Float[np.ndarray, "points units"]

    def means(self, weights: Float[np.ndarray, "draws units"]) -> Float[np.ndarray, "draws points"]:
        """Return the quantity at each point under each draw of weights; NaN where the draw has no unit."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self.upper.T) / (weights @ self.lower.T)


def series_of(path: PathResult, name: str) -> _Series | None:
    """Return a quantity along a path; None where no point has it."""
    points = [path.reference, *path.points]
    read = _READERS[name]
    found = [(point.step, *rows) for point in points if (rows := read(path, point)) is not None]
    if len(found) < 2:  # the reference alone is no path
        return None
    steps, upper, lower = zip(*found, strict=True)
    return _Series(steps, np.array(upper, dtype=float), np.array(lower, dtype=float))


_Rows = tuple[np.ndarray, np.ndarray] | None
_Reader = Callable[[PathResult, PathPoint], _Rows]


def _plain(values: np.ndarray) -> _Rows:
    return values, np.ones(len(values))


def _forgetting(path: PathResult, point: PathPoint) -> _Rows:
    if not point.text:
        return None
    tokens = np.array(path.text_tokens, dtype=float)
    return tokens * (np.array(point.text) - np.array(path.reference.text)), tokens


def _of_answers(read: Callable[[SampledAnswers, SampledAnswers], _Rows]) -> _Reader:
    """Make a reader of what sampled answers did, given the reference's too."""

    def rows(path: PathResult, point: PathPoint) -> _Rows:
        if point.answers is None or path.reference.answers is None:
            return None
        return read(point.answers, path.reference.answers)

    return rows


def _passes(answers: SampledAnswers, reference: SampledAnswers) -> _Rows:
    if answers.passed is None or reference.passed is None:
        return None
    return _plain(np.array(answers.passed) - np.array(reference.passed))


def _lengths(answers: SampledAnswers) -> np.ndarray:
    return np.array(answers.measure.tokens_by_prompt)


_READERS: dict[str, _Reader] = {
    "pass": _of_answers(_passes),
    "loss": lambda path, point: _plain(np.log(2.0) - np.logaddexp(0.0, -point.margins(path.beta))),
    "margin": lambda path, point: _plain(point.margins(path.beta)),
    "forgetting": _forgetting,
    "kl": _of_answers(lambda answers, _: (np.array(answers.kl), _lengths(answers))),
    "length": _of_answers(lambda answers, reference: _plain(_lengths(answers) - _lengths(reference))),
    "chosen": lambda path, point: _plain(np.array(point.chosen)),
    "rejected": lambda path, point: _plain(np.array(point.rejected)),
    "tokens": _of_answers(lambda answers, _: _plain(_lengths(answers))),
    "repetition": _of_answers(lambda answers, _: _plain(np.array(answers.measure.repetition_by_prompt))),
}
