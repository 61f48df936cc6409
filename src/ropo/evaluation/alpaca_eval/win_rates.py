"""The win rate of AlpacaEval, and the length-controlled one: what the judge would say at the reference's length.

Dubois et al. 2024 (arXiv 2404.04475) fit, for one model against the reference, the logistic model

    logit P(model preferred on instruction x) = theta + phi tanh(d_x / s) + psi gamma_x

with d_x the difference of the two lengths in characters, s its standard deviation and gamma_x the instruction's
difficulty, and report the mean of sigmoid(theta + psi gamma_x): the same prediction at d = 0. (Their coefficients are
published for -d, so their phi has the other sign.)

One model's verdicts say little of phi where nearly all its answers are shorter than the reference's: how much of its
losses is length, and how much quality? The published program holds phi and psi in place with the judge's verdicts on
two variants of its reference that were told to be brief or verbose, which exist for one judge and one reference only.
Here a normal prior on phi and psi does so: mean and covariance of the coefficients that were published for 164 models.
theta, the model's quality, is free. Where difficulties are not known their term is left out, and the prior follows (see
`Prior.without_difficulties`).

`experiments/length_control/prior.py` derives every constant and says how it was chosen.
"""

from __future__ import annotations

__all__ = ()

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

NO_VERDICT = 0.5  # a judge that gave no verdict counts as a tie
FREE = 1e-3  # precision of theta's own prior, which keeps it finite where all is won or lost
_FLATTENED = 16.0 * 3**0.5 / (15.0 * np.pi)  # of Zeger, Liang and Albert 1988 (Biometrics 44:1049), equation 3.4
_DECREMENT = 1e-12  # of Newton's method: twice what the next step could still gain, in nats


def win_rate(wins: Float[np.ndarray, " n"] | Sequence[float]) -> float:
    """Return the win rate in percent: 100 times the mean probability that the model's answer is the better one.

    AlpacaEval (arXiv 2404.04475) writes a preference p between 1 and 2, with p - 1 that probability.

    Args:
        wins: That probability for each instruction, 0 to 1, a tie 0.5.
    """
    return 100.0 * float(np.mean(wins))


def standard_error(wins: Float[np.ndarray, " n"] | Sequence[float]) -> float | None:
    """Return the standard error of the win rate in percentage points, s / sqrt(n) with s over n - 1; None for n < 2."""
    return 100.0 * float(np.std(wins, ddof=1)) / len(wins) ** 0.5 if len(wins) > 1 else None


class Prior(NamedTuple):
    """A normal prior on the coefficients.

    Attributes:
        mean: Of phi and psi.
        covariance: Of phi and psi.
        strength: What the inverse of the covariance is multiplied by, where difficulties are known.
        spread: Standard deviation of the difficulties, for where they are not.
        strength_alone: The strength there.
    """

    mean: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    strength: float
    spread: float
    strength_alone: float

    def with_difficulties(self) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        """Return mean and precision of theta, phi and psi."""
        return _with_free_theta(np.array(self.mean), self.strength * np.linalg.inv(np.array(self.covariance)))

    def without_difficulties(self) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "2 2"]]:
        """Return mean and precision of theta and phi where the term of the difficulties is left out.

        A logistic model that lacks a normal term of standard deviation t = psi spread has coefficients that are smaller
        by sqrt(1 + (16 sqrt(3) / (15 pi))^2 t^2).
        """
        smaller = (1.0 + (_FLATTENED * self.mean[1] * self.spread) ** 2) ** -0.5
        precision = self.strength_alone / (self.covariance[0][0] * smaller**2)
        return _with_free_theta(np.array([self.mean[0] * smaller]), np.array([[precision]]))


PUBLISHED = Prior(
    mean=(1.435, 0.902),
    covariance=((0.1276, 0.0393), (0.0393, 0.0280)),
    strength=0.5,
    spread=1.607,
    strength_alone=4.0,
)


class LengthControl(NamedTuple):
    """A fitted model: quality, the judge's taste for length, and the weight of the difficulties (or None)."""

    theta: float
    phi: float
    psi: float | None
    scale: float

    def win_rate(self, difficulties: Float[np.ndarray, " n"] | None) -> float:
        """Return the mean predicted win rate at equal lengths, in percent."""
        if difficulties is None or self.psi is None:
            return 100.0 * float(expit(self.theta))
        return 100.0 * float(expit(self.theta + self.psi * difficulties).mean())


def fit_length_control(
    wins: Float[np.ndarray, " n"],
    extra_length: Float[np.ndarray, " n"],
    difficulties: Float[np.ndarray, " n"] | None = None,
    prior: Prior = PUBLISHED,
) -> LengthControl:
    """Fit the logistic model of this file: the coefficients of the highest posterior density.

    Args:
        wins: Probability that the model's answer is the better one, for each instruction.
        extra_length: The model's length minus the reference's, in characters.
        difficulties: Difficulty of each instruction as AlpacaEval publishes it: the higher, the oftener models win, by
            about one logit a unit. On another scale the prior is soon outweighed by some hundred verdicts.
        prior: Of phi and psi.

    Returns:
        The fit. Lengths that do not vary carry no information, and phi is then the prior's.

    Cost: under a millisecond for 805 instructions.
    """
    scale = float(extra_length.std(ddof=1)) if len(extra_length) > 1 else 0.0  # what the lengths are divided by
    columns = [np.ones_like(wins), np.tanh(extra_length / scale) if scale > 0 else np.zeros_like(wins)]
    if difficulties is None:
        theta, phi = _mode(wins, np.column_stack(columns), *prior.without_difficulties())
        return LengthControl(float(theta), float(phi), None, scale)
    theta, phi, psi = _mode(wins, np.column_stack([*columns, difficulties]), *prior.with_difficulties())
    return LengthControl(float(theta), float(phi), float(psi), scale)


def _with_free_theta(mean: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    full = np.diag([FREE] * (len(mean) + 1))
    full[1:, 1:] = precision
    return np.concatenate([[0.0], mean]), full


# Called a thousand times an interval, so without shapes to check: wins (n), features (n, k), mean (k), precision (k,k).
def _mode(wins: np.ndarray, features: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the minimum of -log-likelihood + (b - mean)' precision (b - mean) / 2, by Newton's method.

    The loss is strictly convex, and a step is halved until it gains a part of what the quadratic model promises.
    """

    def loss(b: np.ndarray) -> float:
        logits = features @ b
        return float(np.logaddexp(0.0, logits).sum() - wins @ logits + (b - mean) @ precision @ (b - mean) / 2)

    b = mean
    while True:
        chances = expit(features @ b)
        slope = features.T @ (chances - wins) + precision @ (b - mean)
        curvature = (features.T * (chances * (1.0 - chances))) @ features + precision
        step = np.linalg.solve(curvature, slope)
        gain = slope @ step
        size, here = 1.0, loss(b)
        while size > _DECREMENT and loss(b - size * step) > here - size * gain / 4:
            size /= 2
        b = b - size * step
        if gain < _DECREMENT * max(1.0, here) or size <= _DECREMENT:
            return b
