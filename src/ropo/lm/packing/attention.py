"""Attention over a pack, registered with transformers under the name `PACKED`.

A pack reaches this function as the keyword argument `pack` of the model's forward, which every model that goes through
transformers' `AttentionInterface` hands down to its layers; gradient checkpointing keeps it for the recomputation.
Without a pack it is transformers' own scaled dot product attention, so that generation goes on as before.
"""

from __future__ import annotations

__all__ = ["PACKED", "attend_padded", "no_mask", "packed_attention"]

import warnings
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from ropo.lm.packing.cpu_attention import attend_segments, idle_memory
from ropo.lm.packing.layout import GatheredKeys, Pack, Segment

PACKED = "ropo_packed"

# `torch.nn.attention.varlen` calls the same operator, but takes neither scale nor window in PyTorch 2.10, and no
# `enable_gqa` before 2.13. The operator has its arguments and its gradient in all of these.
_flash_attention = torch.ops.aten._flash_attention_forward


_NOT_TOLD = -1  # in the place of a sliding window: the model hands none down


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
    sliding_window: int | None = _NOT_TOLD,
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
        CannotPackError: If the model does not hand the pack down, has attention sinks, or a window in its masks alone.

    Cost: on CUDA in half precision one variable-length kernel; elsewhere one `scaled_dot_product_attention` a segment,
    with a boolean mask of queries x keys only where a segment has a prefix or a window.
    """
    if kwargs.get("s_aux") is not None:
        raise CannotPackError("it has attention sinks")
    if pack is None:
        return attend_padded(module, query, key, value, attention_mask, dropout, scaling, softcap, **kwargs)
    if sliding_window == _NOT_TOLD and getattr(getattr(module, "config", None), "sliding_window", None):
        raise CannotPackError("its sliding window is in its masks alone")
    window = None if sliding_window == _NOT_TOLD else sliding_window or None
    if dropout == 0.0 and softcap is None and _has_varlen_kernel(query.device):
        half = _half_precision(query)
        shape = (query.shape[1], key.shape[1], query.shape[-1])
        if half and value.shape[-1] == query.shape[-1] and _varlen_works(query.device, half, shape, window):
            query, key, value = (tensor.to(half) for tensor in (query, key, value))
            return varlen_attention(query, key, value, pack.gathered_keys, scaling, window), None
    if query.device.type == "cpu" and (memory := idle_memory()) is not None:
        memory.check()  # every layer comes by here, in its forward pass and in its recomputation
    if _suits_cpu_kernel(query, value, pack, window, dropout, softcap):
        return attend_segments(query, key, value, pack.segments, scaling), None
    return _attend_by_segment(query, key, value, pack, window, dropout, scaling, softcap), None


def _half_precision(query: Tensor) -> torch.dtype | None:
    """Return the half precision that attention runs in, as autocast would have it, or None where it is not half."""
    # rotary positions are float32 on float32 weights, autocast or not
    autocast = torch.is_autocast_enabled(query.device.type)
    dtype = torch.get_autocast_dtype(query.device.type) if autocast else query.dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


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


def _attend_by_segment(
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch kv_heads tokens width"],
    value: Float[Tensor, "batch kv_heads tokens value_width"],
    pack: Pack,
    window: int | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Float[Tensor, "batch tokens heads value_width"]:
    """Attend to a pack's segments one after the other, on any device."""
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
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous()


def varlen_attention(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    keys: GatheredKeys,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "1 tokens heads width"]:
    """Attend to every segment of a pack in one call of PyTorch's FlashAttention kernel (CUDA, half precision).

    Arguments are those of `packed_attention`. FlashAttention aligns a causal mask to the last query and the last key,
    which is what a segment with a prefix needs.
    """
    # `index_select`, not `[]`: the gradient of the latter sorts the index first.
    gathered = (tensor[0].transpose(0, 1).index_select(0, keys.index) for tensor in (key, value))
    attended = _flash_attention(
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


def _has_varlen_kernel(device: torch.device) -> bool:
    return device.type == "cuda"


@lru_cache(maxsize=64)
def _varlen_works(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], window: int | None) -> bool:
    """Tell whether the variable-length kernel gives what attention by segment gives, gradients included.

    Not every GPU has one, nor for every width of heads; what has none gets plain attention, with a line that says so.
    """
    heads, kv_heads, width = shape
    segments = Segment(40), Segment(23, 0, 17), Segment(70), Segment(5, 63, 30)
    tokens = sum(segment.length for segment in segments)
    row = torch.zeros(1, tokens, dtype=torch.long, device=device)
    pack = Pack(row, row, segments, row[0], row, row[0])
    # Compared by norms: bfloat16 and float16 are off by about one epsilon, wrong masks by all of it.
    tolerance = 4 * torch.finfo(dtype).eps
    try:
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.enable_grad():
            generator = torch.Generator(device).manual_seed(0)
            query, key, value, grad = (
                torch.randn(1, count, tokens, width, device=device, generator=generator).to(dtype)
                for count in (heads, kv_heads, kv_heads, heads)
            )
            found = _with_gradients(
                lambda q, k, v: varlen_attention(q, k, v, pack.gathered_keys, None, window), (query, key, value), grad
            )
            wide = tuple(tensor.float() for tensor in (query, key, value))
            expected = _with_gradients(
                lambda q, k, v: _attend_by_segment(q, k, v, pack, window, 0.0, None, None), wide, grad.float()
            )
        off = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
        why = "" if off <= tolerance else f"it is off by {off:.1e}"
    except (RuntimeError, NotImplementedError) as error:  # the GPU, or the width, has no such kernel
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if why:
        warnings.warn(
            f"variable-length attention does not work on {device} in {dtype} with heads of {width}; attending segment "
            f"by segment is slower: {why}",
            stacklevel=2,
        )
    return not why


def _with_gradients(attention: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = attention(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.transpose(1, 2))]


def attend_padded(
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
