"""Multiply activations by RoPO's rotation: the fast path."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropo.rotations.blocks import RotationBlocks

CACHED_NUMBERS = 1 << 18
"""Numbers that a CPU core's cache holds with room to spare (1 MiB in float32)."""


def rotate(x: Float[Tensor, "*batch d"], blocks: RotationBlocks) -> Float[Tensor, "*batch d"]:
    """Return x @ R for rows x.

    Equal to `ropo_rotation(...).apply(x)`, at the cost of two small matrix products for each block of coordinates.

    Args:
        x: (*batch, d) activations of any floating dtype.
        blocks: R, from `build_blocks`; float32 or float64.

    Returns:
        (*batch, d) in the dtype of x.

    Cost: 2 tokens d (B + 2 + 2 k) multiplications forward, three times that backward. Arithmetic in the blocks' dtype
    (or the wider of the two), one rounding. For the backward pass it keeps x itself and d / B + k numbers a token.
    """
    return _Rotate.apply(x, *blocks)


class _Rotate(torch.autograd.Function):
    """One node of the graph, so that only x and the channels are kept; see `RotationBlocks` for the equations."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, local: Tensor, read: Tensor, write: Tensor, coarse: Tensor, reflect: Tensor
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows = _to_blocks(x, local)
            first, rest = _read(rows, read)
            ctx.save_for_backward(x, local, read, write, coarse, reflect, first, rest)
            return _write(rows, local, _mix(first, rest, coarse, reflect), write, like=x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, local, read, write, coarse, reflect, first, rest = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grad_rows = _to_blocks(grads[0], local)
            grad_first, grad_rest = _read(grad_rows, write)
            grad_channels = _mix(grad_first, grad_rest, coarse.mT, reflect.mT)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = _write(grad_rows, local.mT, grad_channels, read, like=x)
            if not any(ctx.needs_input_grad[1:]):
                return grad_x, None, None, None, None, None
            rows = _to_blocks(x, local)
            channels = _mix(first, rest, coarse, reflect)
            return (
                grad_x,
                rows.mT @ grad_rows,
                grad_channels @ rows,
                channels @ grad_rows,
                first @ grad_first.mT,
                rest @ grad_rest.mT,
            )


def _to_blocks(x: Tensor, local: Tensor) -> Tensor:
    """Cut (*batch, d) into (blocks, tokens, B), zeros behind the last coordinate, in the arithmetic's dtype."""
    blocks, size, _ = local.shape
    rows = x.reshape(-1, x.shape[-1]).to(local.dtype)
    if blocks * size != x.shape[-1]:
        rows = functional.pad(rows, (0, blocks * size - x.shape[-1]))
    return rows.view(-1, blocks, size).transpose(0, 1)


def _read(rows: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Return channel 0, (blocks, tokens), and the sum over blocks of the others, (k, tokens)."""
    channels = read @ rows.mT
    return channels[:, 0], channels[:, 1:].sum(0)


def _mix(first: Tensor, rest: Tensor, coarse: Tensor, reflect: Tensor) -> Tensor:
    """Return (blocks, 1 + k, tokens): what every block writes."""
    mixed = coarse.mT @ first
    shared = (reflect.mT @ rest).expand(len(mixed), -1, -1)
    return torch.cat([mixed.unsqueeze(1), shared], dim=1)


def _write(rows: Tensor, local: Tensor, channels: Tensor, write: Tensor, like: Tensor) -> Tensor:
    """Return what the blocks and the channels write, laid out and rounded like the input."""
    blocks, tokens, size = rows.shape
    out = rows.new_empty(tokens, blocks, size)
    for part in _token_slices(rows):
        written = torch.bmm(rows[:, part], local).baddbmm_(channels[..., part].mT, write)
        out[part].copy_(written.transpose(0, 1))
    return out.view(tokens, blocks * size)[:, : like.shape[-1]].to(like.dtype).reshape(like.shape)


def _token_slices(rows: Tensor) -> list[slice]:
    """Cut the tokens so that on a CPU a slice's products stay in its cache until they are laid out."""
    blocks, tokens, size = rows.shape
    step = tokens if rows.device.type != "cpu" else max(CACHED_NUMBERS // (blocks * size), 1)
    return [slice(start, start + step) for start in range(0, tokens, max(step, 1))]
