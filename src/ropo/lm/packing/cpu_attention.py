"""Exact attention over the segments of a pack on a CPU, without masks and without copies of keys.

A segment attends to its prefix in full and to itself causally. Both are plain calls of PyTorch's FlashAttention kernel,
which keeps no scores. Each gives an output o and the logarithm l of its softmax's denominator, and

    o = sigmoid(l_own - l_prefix) o_own + sigmoid(l_prefix - l_own) o_prefix,      l = logaddexp(l_own, l_prefix)

is the attention to both (Rabe and Staats 2021, arXiv 2112.05682, section 2). The kernel's backward pass takes o and l
of the whole softmax and then gives each part's share of the gradients, so that nothing else is kept. It runs in
float32: in bfloat16 it takes 8 times as long for 32 tokens and 3.5 times for 128, and saves a fifth for 2,048
(PyTorch 2.13, one thread of a Xeon with AMX).

What is freed between two layers the C library may hoard, so each layer looks whether to give it back (`IdleMemory`).
"""

from __future__ import annotations

__all__ = ()

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.lm.packing.layout import Segment

_Part = tuple[slice, bool]  # the keys that queries meet, and whether causally

SLACK = 2**30
"""Bytes by which resident memory may grow before idle memory is given back."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_segments(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    segments: tuple[Segment, ...],
    scaling: float | None,
) -> Float[Tensor, "1 tokens heads width"]:
    """Attend within each segment of a pack, on a CPU; arguments are those of `packed_attention`.

    Cost: for a segment of n tokens with a prefix of p, n (n / 2 + p) scores a head, none of them kept; beside the
    arguments and the result the backward pass needs one number per token and head.
    """
    if torch.is_autocast_enabled("cpu"):  # as for `scaled_dot_product_attention`; rotary positions give float32
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    groups = key.shape[1]
    grouped = query[0].unflatten(0, (groups, -1)), key[0].unsqueeze(1), value[0].unsqueeze(1)
    attended: Tensor = _AttendSegments.apply(*grouped, segments, scaling)
    return attended.permute(2, 0, 1, 3).flatten(1, 2)[None]


class _AttendSegments(torch.autograd.Function):
    """Attend with the heads that share keys side by side: (kv_heads, heads of each, tokens, width)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scaling: float | None
    ) -> Tensor:
        groups, heads, tokens, width = query.shape
        output = query.new_empty(tokens, groups, heads, width).permute(1, 2, 0, 3)
        log_sums = query.new_empty(groups, heads, tokens, dtype=torch.promote_types(query.dtype, torch.float32))
        for rows, parts in _parts(segments):
            found = [_attend(query, key, value, rows, part, scaling) for part in parts]
            output[:, :, rows], log_sums[:, :, rows] = found[0] if len(found) == 1 else _merge(*found)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.segments, ctx.scaling = segments, scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dtype, wide = gradient.dtype, torch.promote_types(gradient.dtype, torch.float32)
        query, key, value, output, log_sums = (tensor.to(wide) for tensor in ctx.saved_tensors)
        gradient = gradient.to(wide)
        gradients = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        heads = query.shape[1]
        for rows, parts in _parts(ctx.segments):
            for keys, causal in parts:
                shares = _backward(
                    gradient[:, :, rows],
                    query[:, :, rows],
                    _shared(key[:, :, keys], heads),
                    _shared(value[:, :, keys], heads),
                    output[:, :, rows],
                    log_sums[:, :, rows],
                    0.0,
                    causal,
                    scale=ctx.scaling,
                )
                gradients[0][:, :, rows] += shares[0]
                gradients[1][:, :, keys] += shares[1].sum(dim=1, keepdim=True)
                gradients[2][:, :, keys] += shares[2].sum(dim=1, keepdim=True)
        return *(each.to(dtype) for each in gradients), None, None


def _parts(segments: tuple[Segment, ...]) -> list[tuple[slice, list[_Part]]]:
    """List each segment's rows, and what these attend to: themselves, and their prefix where there is one."""
    listed, start = [], 0
    for segment in segments:
        rows = slice(start, start := start + segment.length)
        parts = [(rows, True)]
        if segment.prefix_length:
            parts.append((slice(segment.prefix_start, segment.prefix_start + segment.prefix_length), False))
        listed.append((rows, parts))
    return listed


def _attend(
    query: Tensor, key: Tensor, value: Tensor, rows: slice, part: _Part, scaling: float | None
) -> tuple[Tensor, Tensor]:
    keys, causal = part
    heads = query.shape[1]
    key, value = _shared(key[:, :, keys], heads), _shared(value[:, :, keys], heads)
    return _forward(query[:, :, rows], key, value, 0.0, causal, scale=scaling)


def _shared(keys: Tensor, heads: int) -> Tensor:
    """Show every head of a group the same keys, without a copy."""
    return keys.expand(-1, heads, -1, -1)


def _merge(own: tuple[Tensor, Tensor], prefix: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Turn attention to two sets of keys into attention to both."""
    share = torch.sigmoid(own[1] - prefix[1])[..., None]
    return torch.lerp(prefix[0].to(share.dtype), own[0].to(share.dtype), share), torch.logaddexp(own[1], prefix[1])


class IdleMemory:
    """Give idle memory back to the system whenever resident memory has grown by `SLACK`.

    Every aligned allocation of glibc before 2.38 leaves slivers that small allocations settle in, so that the hole
    which a freed tensor leaves is too small for the next tensor of its size: memory grows by most of a layer's
    activations at every layer. (Tensors above 32 MiB are not affected: they are mapped, and unmapped, on their own.)
    """

    def __init__(self, resident: Callable[[], int], trim: Callable[[], object]) -> None:
        self._resident, self._trim = resident, trim
        self._low = resident()

    def check(self) -> None:
        """Give idle memory back if it is time; some 10 microseconds where it is not."""
        now = self._resident()
        if now > self._low + SLACK:
            self._trim()
            self._low = self._resident()
        self._low = min(self._low, now)


@cache
def idle_memory() -> IdleMemory | None:
    """Return the process's watch over idle memory; None where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    statm = Path("/proc/self/statm")
    if trim is None or not statm.exists():
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return IdleMemory(lambda: int(statm.read_text().split()[1]) * page, lambda: trim(0))
