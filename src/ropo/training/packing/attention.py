"""Attention over a pack, registered with transformers under the name `PACKED`.

A pack reaches this function as the keyword argument `pack` of the model's forward, which every model that goes through
transformers' `AttentionInterface` hands down to its layers; gradient checkpointing keeps it for the recomputation.
Without a pack it is transformers' own scaled dot product attention, so that generation goes on as before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from ropo.training.packing.cpu_attention import attend_segments
from ropo.training.packing.host_memory import idle_memory
from ropo.training.packing.layout import Pack

PACKED = "ropo_packed"


class CannotPackError(NotImplementedError):
    """Say why a model's attention cannot run on a pack."""


def no_mask(device: torch.device) -> Bool[Tensor, "1 1 0 0"]:
    """Return the mask that stands for "see the pack"; transformers passes masks of four dimensions on untouched."""
    return torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys value_width"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    pack: Pack | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch tokens heads value_width"], None]:
    """Attend within each segment of a pack, or to everything where there is no pack.

    Args:
        module: The attention layer.
        query: Queries, rotated.
        key: Keys, rotated; `heads` is a multiple of `kv_heads`.
        value: Values.
        attention_mask: `no_mask` with a pack; otherwise what transformers' sdpa attention takes.
        dropout: Probability of dropping an attention weight.
        scaling: Factor of the scores; None for 1 / sqrt(width).
        sliding_window: Number of last tokens that a token sees, itself included; None for all.
        softcap: Bound c of the scores, c tanh(score / c); None for no bound.
        pack: The layout of the row.
        **kwargs: The rest of what transformers passes; attention sinks (`s_aux`) are refused.

    Returns:
        The attended values, and None in the place of attention weights.

    Raises:
        CannotPackError: If the model does not hand the pack down, or has attention sinks.

    Cost: on CUDA in half precision one variable-length kernel; elsewhere one `scaled_dot_product_attention` a segment,
    with a boolean mask of queries x keys only where a segment has a prefix or a window.
    """
    if kwargs.get("s_aux") is not None:
        raise CannotPackError("it has attention sinks")
    if pack is None:
        return _attend_padded(module, query, key, value, attention_mask, dropout, scaling, softcap, **kwargs)
    window = sliding_window or None
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and softcap is None and dropout == 0.0:
        return varlen_attention(query, key, value, pack, scaling, window), None
    if query.device.type == "cpu" and (memory := idle_memory()) is not None:
        memory.check()  # every layer comes by here, in its forward pass and in its recomputation
    if _suits_cpu_kernel(query, value, pack, window, dropout, softcap):
        return attend_segments(query, key, value, pack.segments, scaling), None
    attended = []
    lengths = [segment.length for segment in pack.segments]
    # `split`, not slices: the backward pass of each slice would fill a whole row with zeros.
    for segment, queries, keys, values in zip(
        pack.segments, *(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True
    ):
        if segment.prefix_length:
            prefix = slice(segment.prefix_start, segment.prefix_start + segment.prefix_length)
            keys = torch.cat([key[:, :, prefix], keys], dim=2)
            values = torch.cat([value[:, :, prefix], values], dim=2)
        attended.append(attend(queries, keys, values, pack.mask(segment, window), dropout, scaling, softcap))
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _suits_cpu_kernel(
    query: Tensor, value: Tensor, pack: Pack, window: int | None, dropout: float, softcap: float | None
) -> bool:
    plain = query.device.type == "cpu" and dropout == 0.0 and softcap is None and query.shape[-1] == value.shape[-1]
    return plain and (window is None or pack.gathered_keys.most_keys <= window)


def attend(
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys value_width"],
    mask: Bool[Tensor, "*#batch tokens keys"] | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Float[Tensor, "batch heads tokens value_width"]:
    """Attend with a mask, causally where there is none."""
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if mask is None:
        queries, keys = query.shape[2], key.shape[2]  # fewer queries than keys: the last ones, in generation
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    hidden = torch.finfo(scores.dtype).min  # finite: a padded query may see nothing at all
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, hidden)
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value


def varlen_attention(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens value_width"],
    pack: Pack,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "1 tokens heads value_width"]:
    """Attend to every segment of a pack in one FlashAttention call (CUDA, half precision).

    FlashAttention aligns a causal mask to the last query and the last key, which is what a segment with a prefix needs.
    """
    from torch.nn.attention.varlen import varlen_attn  # needs torch 2.10

    keys = pack.gathered_keys
    attended = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1)[keys.index],
        value[0].transpose(0, 1)[keys.index],
        keys.query_ends,
        keys.key_ends,
        keys.most_queries,
        keys.most_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(attended, Tensor)  # a pair only when auxiliary outputs are asked for
    return attended[None]


def _attend_padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if mask is not None and mask.numel() == 0:
        raise CannotPackError("it does not hand its keyword arguments down to its attention")
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)
    return attend(query, key, value, mask, dropout, scaling, softcap).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
