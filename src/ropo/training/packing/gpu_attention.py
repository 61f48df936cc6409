"""Attention over the segments of a pack on a GPU, in one call of the FlashAttention kernel that PyTorch ships."""

from __future__ import annotations

__all__ = ()

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.training.packing.layout import GatheredKeys

# `torch.nn.attention.varlen` calls the same operator, but takes neither scale nor window in PyTorch 2.10, and no
# `enable_gqa` before 2.13. The operator has its arguments and its gradient in all of these.
_forward = torch.ops.aten._flash_attention_forward


def varlen_attention(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    keys: GatheredKeys,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "1 tokens heads width"]:
    """Attend to every segment of a pack (CUDA, half precision).

    FlashAttention aligns a causal mask to the last query and the last key, which is what a segment with a prefix needs.

    Args:
        query: Queries, rotated.
        key: Keys, rotated; `heads` is a multiple of `kv_heads`.
        value: Values.
        keys: The keys of each segment, from the pack.
        scaling: Factor of the scores; None for 1 / sqrt(width).
        window: Number of last tokens that a token sees, itself included; None for all.
    """
    # `index_select`, not `[]`: the gradient of the latter sorts the index first.
    gathered = (tensor[0].transpose(0, 1).index_select(0, keys.index) for tensor in (key, value))
    attended = _forward(
        query[0].transpose(0, 1),
        *gathered,
        keys.query_ends,
        keys.key_ends,
        keys.most_queries,
        keys.most_keys,
        0.0,  # dropout
        window is None,  # causal; with a window, this says both
        False,
        scale=scaling,
        window_size_left=-1 if window is None else window - 1,
        window_size_right=0,
    )[0]
    return attended[None]
