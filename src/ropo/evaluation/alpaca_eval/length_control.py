"""The length-controlled win rate: what the judge would say of answers as long as the reference's.

Dubois et al. 2024 (arXiv 2404.04475) fit, for one model against the reference, the logistic model

    logit P(model preferred on instruction x) = theta + phi tanh(d_x / s) + psi gamma_x

with d_x the difference of the two lengths in characters, s its standard deviation and gamma_x the instruction's
difficulty, and report the mean of sigmoid(theta + psi gamma_x): the same prediction at d = 0.

The published implementation differs from this one in three points. It takes gamma_x from a joint fit over the whole
leaderboard; here the difficulties are the user's, and psi is left out where there are none. It holds phi in place with
the judge's verdicts on two variants of its reference that were told to be brief or verbose, weighted 0.2, which exist
for one judge and one reference only. And it chooses the strength of an L1 penalty on all coefficients by five-fold
cross-validation. Here an L1 penalty of fixed strength on phi and psi alone does the work of both; theta, the model's
quality, is free. The penalty on phi is capped, strength times min(|phi|, LIMIT) (Zhang 2010, "Analysis of multi-stage
convex relaxation for sparse regularization"): it decides where the verdicts say little about length, and lets go where
they say that length is all there is, so that a judge who follows nothing but length is found out. Such verdicts leave
theta open between the least and the greatest value that tells longer from shorter; a weak prior takes the one nearest
to 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

# Times sqrt(n), as the noise of the likelihood's slope grows: a few prompts are held back, very many are not.
PENALTY = 0.3
# The |phi| from which on it costs no more. On AlpacaEval 2's own verdicts the most it could save is 2.8; with a judge
# of nothing but length, on the same answers, 7.7 at least.
LIMIT = 4.0
PRIOR = 1.0  # nats that a unit of theta costs there
LARGEST = 50.0  # a logit of certainty; as phi, 2 % of the scale make a logit of 1


class LengthControl(NamedTuple):
    """Hold a fitted model: quality, the judge's taste for length, and the weight of the difficulties (or None)."""

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
    scale: float | None = None,
) -> LengthControl:
    """Fit the logistic model of this file by penalised likelihood.

    Args:
        wins: Probability that the model's answer is the better one, for each instruction.
        extra_length: The model's length minus the reference's, in characters.
        difficulties: Difficulty of each instruction, higher for those that models lose on less or more; any scale.
        scale: What the lengths are divided by; their own standard deviation where None.

    Returns:
        The fit. Lengths that do not vary carry no information, and phi is then 0.

    Cost: a few milliseconds for 805 instructions.
    """
    scale = float(extra_length.std(ddof=1)) if scale is None else scale
    columns = [np.ones_like(wins), np.tanh(extra_length / scale) if scale > 0 else np.zeros_like(wins)]
    if difficulties is not None:
        columns.append(difficulties)
    features = np.column_stack(columns)
    strength = PENALTY * len(wins) ** 0.5
    others = [strength] * (features.shape[1] - 2)
    held = _fit(wins, features, np.array([0.0, strength, *others]))
    free = _fit(wins, features, np.array([PRIOR, 0.0, *others]))
    # The least of a capped penalty is the lesser of two convex ones' least.
    coefficients = (held if held.loss <= free.loss + strength * LIMIT else free).coefficients
    psi = None if difficulties is None else float(coefficients[2])
    return LengthControl(float(coefficients[0]), float(coefficients[1]), psi, scale)


class _Fit(NamedTuple):
    loss: float
    coefficients: np.ndarray


def _fit(wins: Float[np.ndarray, " n"], features: Float[np.ndarray, "n k"], pull: Float[np.ndarray, " k"]) -> _Fit:
    """Minimise -log-likelihood + sum pull |b|.

    Those that are pulled are split into two non-negative parts each, and the loss is smooth.
    """
    pulled = pull > 0
    signed = np.concatenate([features, -features[:, pulled]], axis=1)
    pulls = np.concatenate([pull, pull[pulled]])
    # Wins of 0 or 1 throughout would have no minimum.
    bounds = [(0.0 if cost else -LARGEST, LARGEST) for cost in pulls]
    options = {"ftol": 1e-12, "gtol": 1e-6}
    found = minimize(
        _loss, np.zeros(len(pulls)), (wins, signed, pulls), "L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    coefficients = found.x[: len(pull)]
    coefficients[pulled] -= found.x[len(pull) :]
    return _Fit(float(found.fun), coefficients)


# Called some forty times a fit, so without shapes to check: parts and pull (m), wins (n), features (n, m).
def _loss(parts: np.ndarray, wins: np.ndarray, features: np.ndarray, pull: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the penalised negative log-likelihood and its gradient."""
    logits = features @ parts
    value = np.logaddexp(0.0, logits).sum() - wins @ logits + pull @ parts
    return float(value), features.T @ (expit(logits) - wins) + pull
