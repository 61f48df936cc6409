"""What a batch's answers score under policy and reference: seen where TRL computes it, so that nothing is run twice."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class PairScores:
    """The summed log-probs of pairs of answers, in nats; columns chosen, rejected.

    Args:
        policy: Under the policy, with gradients.
        reference: Under the reference.
        lengths: Tokens of the answers.
        plain: Whether they are plain sums; LD-DPO (`ld_alpha`) gives the tail of the longer answer less weight.
    """

    policy: Float[Tensor, "pairs 2"]
    reference: Float[Tensor, "pairs 2"]
    lengths: Int[Tensor, "pairs 2"]
    plain: bool = True

    @property
    def ratios(self) -> Float[Tensor, "pairs 2"]:
        """Log pi(y|x) - log pi_ref(y|x)."""
        return self.policy - self.reference


OwnLoss = Callable[[PairScores], Float[Tensor, ""]]


def loss_of_pairs(trainer: Any, theirs: Callable[[], Any], inputs: Mapping[str, Any], own: OwnLoss | None) -> Any:
    """Add the losses that TRL does not have to those that it computes, and log how far a batch's answers drifted.

    Args:
        trainer: A `ropo.PreferenceTrainer`.
        theirs: Computes TRL's loss, perhaps with outputs beside it, whose log-probs serve here too.
        inputs: The padded batch.
        own: Computes the other losses; None for none.
    """
    with _seeing_scores(trainer.model, trainer.ref_model) as seen:
        result = theirs()
    scores = _pair_scores(seen, inputs, trainer.ld_alpha)
    for name, value in _drift_metrics(scores, trainer.accelerator.gather).items():
        trainer._metrics["train" if trainer.model.training else "eval"][name].append(value)
    if own is None:
        return result
    return (result[0] + own(scores), *result[1:]) if isinstance(result, tuple) else result + own(scores)


@contextmanager
def _seeing_scores(*models: nn.Module | None) -> Iterator[list[Float[Tensor, "rows _"]]]:
    """Collect the log-probs of tokens that models give while the context is open, in the order of the calls."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if getattr(output, "log_probs", None) is not None:  # not where logits are recomputed for `compute_metrics`
            seen.append(output.log_probs)

    hooks = [model.register_forward_hook(keep) for model in models if model is not None]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _pair_scores(seen: list[Float[Tensor, "rows _"]], inputs: Mapping[str, Any], ld_alpha: float | None) -> PairScores:
    """Sum the log-probs that TRL's loss has seen, as it sums them.

    Args:
        seen: Those of the policy, then those of the reference unless they were computed in advance; zero where no token
            of an answer is. Prompt learning puts virtual tokens first.
        inputs: The padded batch: chosen rows, then rejected ones.
        ld_alpha: Weight of the tokens beyond the shorter answer's length (LD-DPO, arXiv 2409.06411); None for 1.
    """
    mask = inputs["completion_mask"][:, 1:].bool()
    weights = _answer_weights(mask, ld_alpha)
    sums = [_pairs((scores[:, -mask.shape[1] :] * weights).sum(dim=1)) for scores in seen[:2]]
    if len(sums) < 2:
        sums.append(torch.stack([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]], dim=1))
    return PairScores(sums[0], sums[1], _pairs(mask.sum(dim=1)), plain=ld_alpha is None)


def _answer_weights(mask: Bool[Tensor, "rows columns"], ld_alpha: float | None) -> Float[Tensor, "rows columns"]:
    """Weigh the tokens of answers: 1, and `ld_alpha` beyond the length of the shorter answer of the pair."""
    weights = mask.float()
    if ld_alpha is None:
        return weights
    shorter = _pairs(mask.sum(dim=1)).amin(dim=1).repeat(2)
    return weights.masked_fill(mask & (mask.cumsum(dim=1) > shorter[:, None]), ld_alpha)


def drift(scores: PairScores) -> Float[Tensor, "2 2"]:
    """Return what the answers of the data lost against the reference: sums of nats, and numbers of tokens.

    mean over the tokens of answers of log pi_ref(y_t | x, y_<t) - log pi(y_t | x, y_<t).

    Where the answers are the reference's own samples, as those of `ropo pairs` on the model that is trained, this is
    an unbiased estimate of KL(pi_ref || pi) on their prefixes. On answers of anybody else it is none, and may be
    negative: it is by how much the policy's cross-entropy on them exceeds the reference's.

    Returns:
        Rows chosen, rejected; columns nats, tokens.
    """
    return torch.stack([-scores.ratios.detach().sum(dim=0), scores.lengths.sum(dim=0)], dim=1)


def _drift_metrics(scores: PairScores, gather: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return by how many nats per token the answers of all processes have become less likely than under the reference.

    Returns:
        `drift/per_token`, and the same of chosen and rejected answers; nothing where the sums are not plain.
    """
    if not scores.plain:
        return {}
    lost = gather(drift(scores).flatten()).view(-1, 2, 2).sum(dim=0)
    metrics = {
        f"drift/{name}_per_token": nats / tokens if tokens else 0.0
        for name, (nats, tokens) in zip(("chosen", "rejected"), lost.tolist(), strict=True)
    }
    return {**metrics, "drift/per_token": float(lost[:, 0].sum() / lost[:, 1].sum().clamp(min=1))}


def summed_log_probs(model: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "pairs 2"]:
    """Return a model's summed log-probs (chosen, rejected) of each pair of a batch.

    Args:
        model: With TRL's fused LM head.
        inputs: The padded batch: chosen rows, then rejected ones.
    """
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    unseen = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
    seen = {name: value for name, value in inputs.items() if name not in unseen}
    scores = model(**seen, labels=labels, fused_lm_head=True).log_probs
    scores = scores[:, 1 - labels.shape[1] :]  # without the virtual tokens that prompt learning puts first
    return _pairs(scores.sum(dim=1))


def _pairs(values: Tensor) -> Tensor:
    """Put the chosen and the rejected half of a column beside each other."""
    return torch.stack(values.chunk(2), dim=1)
