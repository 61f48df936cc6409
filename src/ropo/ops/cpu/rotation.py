"""RoPO's rotation on a CPU, plane by plane from the parameters themselves; rotation.c says how."""

from __future__ import annotations

__all__ = ()

import torch
from torch import Tensor

from ropo.ops.cpu.library import call, threads_for

_TILE = 16
_LANES = 8
"""Tokens that one thread works on at a time, and how many of them at once; in tile.h they may also be half of that."""


def turned(x: Tensor, givens: Tensor | None, reflections: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return x R, like x, and a table that `turned_back` needs.

    Args:
        x: (*batch, d), computed with in float32.
        givens: (trees, d - 1) float32, the forward tree first, or None.
        reflections: (k, d) float32 with an even k, or None.

    Raises:
        ValueError: If k is odd: the kernel reads pairs.
    """
    if _count(reflections) % 2:
        raise ValueError(f"reflections: must be an even number of vectors, got {_count(reflections)}")
    rows, angles, vectors = x.float().contiguous(), _contiguous(givens), _contiguous(reflections)
    width, trees, k = x.shape[-1], _count(givens), _count(reflections)
    threads = threads_for(rows.numel())
    out = torch.empty_like(rows)
    table = out.new_empty(2 * trees * (width - 1) + k * (width + 1 + k))
    scratch = out.new_empty(_TILE * (2 * width + threads * (width + 2 * k)))
    sizes = rows.numel() // width, width, trees, k, threads
    call("ropo_rotate", sizes, (rows, angles, vectors, table, out, scratch))
    return out.to(x.dtype), table


def turned_back(
    x: Tensor, grad: Tensor, table: Tensor, trees: int, reflections: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, `givens` and `reflections` from that of x R."""
    rows, grads, width, k = x.float().contiguous(), grad.float().contiguous(), x.shape[-1], reflections
    threads = threads_for(rows.numel())
    grad_x = torch.empty_like(grads)
    d_givens, d_reflections = grad_x.new_empty(trees, width - 1), grad_x.new_empty(k, width)
    sums = trees * (width - 1) + k * (width + k)
    scratch = grad_x.new_empty(_TILE * (3 * width + 2 * threads * (width + 2 * k)) + _LANES * threads * sums)
    sizes = rows.numel() // width, width, trees, k, threads
    call("ropo_rotate_back", sizes, (rows, grads, table, grad_x, d_givens, d_reflections, scratch))
    return grad_x.to(x.dtype), d_givens if trees else None, d_reflections if k else None


def _contiguous(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.contiguous()


def _count(part: Tensor | None) -> int:
    return 0 if part is None else len(part)
