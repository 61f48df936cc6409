"""Turn logits and uniform random numbers into tokens."""

from __future__ import annotations

__all__ = ()

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A nucleus is seldom wider; sorting the whole vocabulary costs as much as a step of a 135M model.
NUCLEUS_CANDIDATES = 512


def pick_tokens(
    logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"], temperature: float, top_p: float
) -> Int[Tensor, " rows"]:
    """Pick one token a row by inverting the cumulative distribution at the row's uniform number.

    Token t is picked when F(t - 1) <= u < F(t), F the cumulative softmax(logits / temperature) over the nucleus: the
    smallest set of most likely tokens with a mass of at least `top_p` (Holtzman et al., 2020, arXiv 1904.09751).

    Args:
        logits: Next-token logits, any floating dtype.
        uniforms: Numbers in [0, 1), one per row; a row's token depends on no other row.
        temperature: Divisor of the logits; 0 takes the most likely token.
        top_p: Mass of the nucleus in (0, 1].

    Returns:
        One token id a row.

    Cost: a softmax in float32 and a partial sort; cumulative sums run in float64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p == 1:
        return _invert(probabilities, uniforms)
    likely, tokens = probabilities.topk(min(NUCLEUS_CANDIDATES, probabilities.shape[-1]))
    picked = _pick_from_nucleus(likely, tokens, uniforms, top_p)
    wide = likely.sum(-1) < top_p
    if wide.any():
        ordered, tokens = probabilities[wide].sort(descending=True)
        picked[wide] = _pick_from_nucleus(ordered, tokens, uniforms[wide], top_p)
    return picked


def _pick_from_nucleus(
    ordered: Float[Tensor, "rows k"], tokens: Int[Tensor, "rows k"], uniforms: Float[Tensor, " rows"], top_p: float
) -> Int[Tensor, " rows"]:
    mass_before = ordered.cumsum(-1) - ordered
    nucleus = ordered.masked_fill(mass_before >= top_p, 0.0)
    return tokens.gather(-1, _invert(nucleus, uniforms)[:, None]).squeeze(-1)


def _invert(weights: Float[Tensor, "rows k"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    cumulative = weights.double().cumsum(-1)
    heights = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, heights, right=True).squeeze(-1)
