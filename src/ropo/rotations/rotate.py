"""Multiply activations by RoPO's rotation: the fast path."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropo.rotations.blocks import RotationBlocks

CACHED_NUMBERS = 1 << 20
"""Numbers of a slice of activations on a CPU: smaller ones would stay in a nearer cache, but make more calls."""


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
    """One node of the graph, so that only x and the channels are kept; see `RotationBlocks` for the equations.

    Products read a block's coordinates where they lie, d numbers apart from token to token, but write them block by
    block, (blocks, tokens, B): so all blocks are one batched product, and only its result has to be copied.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, local: Tensor, read: Tensor, write: Tensor, mix: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            flat = x.reshape(-1, x.shape[-1])
            out = flat.new_empty(flat.shape)
            spread = _spread(mix.mT, read)
            channels: list[Tensor] = []
            for part in _token_slices(flat):
                rows = _as_blocks(flat[part], local)
                channels.append(_read(rows, read))
                _copy_back(torch.bmm(rows, local).baddbmm_((spread @ channels[-1]).mT, write), out[part])
            ctx.save_for_backward(x, local, read, write, mix, *channels)
            return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, local, read, write, mix, *all_channels = ctx.saved_tensors
        learns = any(ctx.needs_input_grad[1:])
        with torch.autocast(x.device.type, enabled=False):
            flat, grad = (tensor.reshape(-1, x.shape[-1]) for tensor in (x, grads[0]))
            grad_x = flat.new_empty(flat.shape) if ctx.needs_input_grad[0] else None
            d_local, d_read, d_write, d_mix = map(torch.zeros_like, (local, read, write, mix))
            spread, spread_back = _spread(mix.mT, read), _spread(mix, read)
            for part, channels in zip(_token_slices(flat), all_channels, strict=True):
                grad_rows = _as_blocks(grad[part], local)
                grad_channels = _read(grad_rows, write)
                passed = spread_back @ grad_channels
                if grad_x is not None:
                    _copy_back(torch.bmm(grad_rows, local.mT).baddbmm_(passed.mT, read), grad_x[part])
                if learns:
                    rows = _as_blocks(flat[part], local)
                    d_local.baddbmm_(rows.mT, grad_rows)
                    d_read.baddbmm_(passed, rows)
                    d_write.baddbmm_(spread @ channels, grad_rows)
                    d_mix.addmm_(channels, grad_channels.mT)
        grad_x = None if grad_x is None else grad_x.view(x.shape)
        return (grad_x, d_local, d_read, d_write, d_mix) if learns else (grad_x, *[None] * 4)


def _token_slices(flat: Tensor) -> list[slice]:
    """Cut (tokens, d) so that on a CPU a slice stays in its cache; on other devices one slice is all."""
    tokens, width = flat.shape
    step = max(CACHED_NUMBERS // width, 1) if flat.device.type == "cpu" else max(tokens, 1)
    return [slice(start, start + step) for start in range(0, tokens, step)]


def _as_blocks(flat: Tensor, local: Tensor) -> Tensor:
    """See (tokens, d) as (blocks, tokens, B), zeros behind the last coordinate, in the arithmetic's dtype."""
    blocks, size, _ = local.shape
    flat = flat.to(local.dtype)
    if blocks * size != flat.shape[1]:
        flat = functional.pad(flat, (0, blocks * size - flat.shape[1]))
    return flat.view(-1, blocks, size).transpose(0, 1)


def _copy_back(rows: Tensor, out: Tensor) -> None:
    """Copy (blocks, tokens, B) to (tokens, d), rounding once to the dtype of `out`."""
    blocks, tokens, size = rows.shape
    rows = rows.transpose(0, 1)
    if blocks * size == out.shape[-1]:
        out.view(tokens, blocks, size).copy_(rows)
    else:
        out.copy_(rows.reshape(tokens, blocks * size)[:, : out.shape[-1]])


def _read(rows: Tensor, read: Tensor) -> Tensor:
    """Return (blocks + k, tokens): channel 0 of each block, then the sums over blocks of the others."""
    first = torch.bmm(read[:, :1], rows.mT).squeeze(1)
    rest = read[:, 1:].transpose(0, 1).flatten(1) @ rows.transpose(0, 1).flatten(1).mT
    return torch.cat([first, rest])


def _spread(mix: Tensor, read: Tensor) -> Tensor:
    """Repeat the mixing matrix' last k rows for every block, (blocks, 1 + k, blocks + k): what each one writes."""
    blocks = len(read)
    return torch.cat([mix[:blocks].unsqueeze(1), mix[blocks:].expand(blocks, -1, -1)], 1)
