"""How a policy changed its answers' log-probs against the reference, and how far it drifted."""

from __future__ import annotations

__all__ = ["dpo_margins", "kl_of_answers"]

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ropo.core.errors import UserError
from ropo.core.intervals import statistic_interval
from ropo.core.record import Measure


class Behaviour(Measure):
    """Summarise log-prob changes (policy minus reference, in nats) over held-out pairs.

    Attributes:
        pairs: Number of pairs.
        chosen_change: Mean change of the chosen answer's summed log-prob.
        rejected_change: The same of the rejected answer.
        chosen_change_per_token: Mean over pairs of change / length.
        rejected_change_per_token: The same of the rejected answer.
        margin: Mean DPO margin, see `dpo_margins`.
        beta: What the margin was multiplied by.
        accuracy: Share of pairs whose margin is above zero (0 for a policy that equals the reference, as in TRL).
        displacement: Share of pairs whose chosen answer lost log-prob (likelihood displacement, Razin et al. 2024,
            arXiv 2410.08847).
        length_reward_correlation: Pearson correlation of length and log-prob change over all answers, chosen and
            rejected (Park et al. 2024, arXiv 2403.19159, on length as the reward's proxy); None when either is
            constant.
        changes_per_token: The chosen and the rejected change per token of each pair.
    """

    pairs: int
    chosen_change: float
    rejected_change: float
    chosen_change_per_token: float
    rejected_change_per_token: float
    margin: float
    beta: float
    accuracy: float
    displacement: float
    length_reward_correlation: float | None
    changes_per_token: list[tuple[float, float]]


class KlEstimate(Measure):
    """An estimate of KL(policy || reference) in nats.

    Attributes:
        answers: Number of answers.
        per_answer: Mean over answers of the sum over an answer's tokens.
        standard_error: Of that mean, over prompts; None for one prompt.
        per_token: The sum over all tokens, divided by their number.
        per_token_interval: Its 95 % interval, bootstrapped over prompts; None for one prompt.
        prompts: Number of prompts, the units of both; None in older files, where the units were answers.
    """

    answers: int
    per_answer: float
    standard_error: float | None
    per_token: float
    per_token_interval: tuple[float, float] | None = None
    prompts: int | None = None


def dpo_margins(
    log_probs: Float[Tensor, "pairs 2"], reference: Float[Tensor, "pairs 2"], beta: float
) -> Float[Tensor, " pairs"]:
    """Return the DPO margin of each pair.

        margin = beta * ((log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)))

    the difference of implicit rewards in Rafailov et al. 2023 (arXiv 2305.18290), section 4. Every command that shows
    a margin shows this one.

    Args:
        log_probs: Log-probs under the policy, summed over an answer's tokens, in nats; columns chosen, rejected.
        reference: Those under the reference.
        beta: Strength of the pull to the reference.

    Cost: float64.
    """
    change = log_probs.double() - reference.double()
    return beta * (change[:, 0] - change[:, 1])


def measure_behaviour(
    log_probs: Float[Tensor, "pairs 2"],
    reference: Float[Tensor, "pairs 2"],
    lengths: Int[Tensor, "pairs 2"],
    beta: float = 0.1,
) -> Behaviour:
    """Compare a policy's log-probs of held-out answers with the reference's.

    With Delta = log pi(y|x) - log pi_ref(y|x), the implicit reward of DPO over beta (Rafailov et al. 2023,
    arXiv 2305.18290, equation 5), for y = chosen (column 0) and rejected (column 1).

    Args:
        log_probs: Summed log-probs under the policy, in nats; chosen, rejected.
        reference: The same under the reference.
        lengths: Answer lengths in tokens.
        beta: As in `dpo_margins`.

    Returns:
        The summary.

    Raises:
        UserError: If there is no pair, an answer has no token, or a log-prob is not finite.

    Cost: a few passes over the pairs in float64.
    """
    if not len(log_probs):
        raise UserError("pairs: need at least one held-out pair, got none; check the file")
    if int(lengths.min()) < 1:
        raise UserError("pairs: an answer has no token; remove the empty answers")
    _check_log_probs(log_probs, reference)
    change = log_probs.double() - reference.double()
    per_token = change / lengths
    margin = dpo_margins(log_probs, reference, beta)
    return Behaviour(
        pairs=len(change),
        chosen_change=float(change[:, 0].mean()),
        rejected_change=float(change[:, 1].mean()),
        chosen_change_per_token=float(per_token[:, 0].mean()),
        rejected_change_per_token=float(per_token[:, 1].mean()),
        margin=float(margin.mean()),
        beta=beta,
        accuracy=float((margin > 0).double().mean()),
        displacement=float((change[:, 0] < 0).double().mean()),
        length_reward_correlation=pearson(lengths.double().flatten(), change.flatten()),
        changes_per_token=[(float(chosen), float(rejected)) for chosen, rejected in per_token],
    )


def estimate_kl(
    log_probs: Float[Tensor, "answers tokens"],
    reference: Float[Tensor, "answers tokens"],
    mask: Bool[Tensor, "answers tokens"],
    prompts: Int[Tensor, " answers"],
) -> KlEstimate:
    """Estimate KL(policy || reference) from answers that the policy sampled at temperature 1.

    k3 = (r - 1) - log r, r = pi_ref(y_t | x, y_<t) / pi(y_t | x, y_<t), summed over the tokens of an answer and
    averaged over answers (Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html).
    Unbiased, never negative, and of lower variance than -log r. Tokens of one answer depend on each other, and so do
    answers to one prompt, so standard error and interval are taken over prompts: the error is that of a ratio of sums,
    sqrt(P / (P - 1) sum_p (K_p - mean * n_p)^2) / sum_p n_p, where prompt p of P has n_p answers with K_p in all.

    Args:
        log_probs: Log-prob of each sampled token under the policy, in nats.
        reference: The same under the reference.
        mask: True where there is a token.
        prompts: The number of the prompt that each answer is to.

    Returns:
        The estimate.

    Raises:
        UserError: If there is no token, or a log-prob is not finite.

    Cost: one pass in float64, and a tenth of a second for the bootstrap.
    """
    divergence = kl_of_answers(log_probs, reference, mask)
    _, units = np.unique(prompts.cpu().numpy(), return_inverse=True)
    sums, lengths, answers = (
        np.bincount(units, each.cpu().numpy()) for each in (divergence, mask.sum(dim=1), torch.ones(len(mask)))
    )
    per_answer, count = float(divergence.mean()), len(sums)
    interval = statistic_interval(lambda drawn: _ratio(sums[drawn], lengths[drawn]), count)
    squares = float(np.square(sums - per_answer * answers).sum())
    return KlEstimate(
        answers=len(divergence),
        per_answer=per_answer,
        standard_error=math.sqrt(count / (count - 1) * squares) / len(divergence) if count > 1 else None,
        per_token=float(divergence.sum() / mask.sum()),
        per_token_interval=None if interval.low is None or interval.high is None else (interval.low, interval.high),
        prompts=count,
    )


def kl_of_answers(
    log_probs: Float[Tensor, "answers tokens"],
    reference: Float[Tensor, "answers tokens"],
    mask: Bool[Tensor, "answers tokens"],
) -> Float[Tensor, " answers"]:
    """Return of each answer its own estimate of KL(policy || reference), whose mean is `estimate_kl`'s."""
    if not bool(mask.any()):
        raise UserError("answers: need at least one sampled token to estimate the KL divergence, got none")
    _check_log_probs(log_probs[mask], reference[mask])
    log_ratio = torch.where(mask, reference.double() - log_probs.double(), 0.0)
    return (torch.expm1(log_ratio) - log_ratio).sum(dim=1)


def pearson(x: Float[Tensor, " values"], y: Float[Tensor, " values"]) -> float | None:
    """Return the Pearson correlation of two series, or None when one of them is constant."""
    if bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return None
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def _ratio(sums: Float[np.ndarray, " prompts"], lengths: Float[np.ndarray, " prompts"]) -> float | None:
    return float(sums.sum() / lengths.sum()) if lengths.sum() else None


def _check_log_probs(*tensors: Tensor) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise UserError("log-probs: must be finite, got NaN or infinity; the model is broken on this data")
