"""Multiply activations by RoPO's rotation: the fast path."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.rotations.blocks import RotationBlocks
from ropo.rotations.products import products_for

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
    """One node of the graph, so that only x and the channels are kept; see `RotationBlocks` for the equations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, local: Tensor, read: Tensor, write: Tensor, mix: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            products = products_for(x, local)
            flat = x.reshape(-1, x.shape[-1])
            out = flat.new_empty(flat.shape)
            spread = _spread(mix.mT, read)
            channels: list[Tensor] = []
            for part in _token_slices(flat):
                rows = products.rows_of(flat[part], local)
                channels.append(products.read_channels(rows, read))
                products.turn(rows, local, spread @ channels[-1], write, out[part])
            ctx.save_for_backward(x, local, read, write, mix, *channels)
            return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, local, read, write, mix, *all_channels = ctx.saved_tensors
        learns = any(ctx.needs_input_grad[1:])
        with torch.autocast(x.device.type, enabled=False):
            products = products_for(x, local)
            flat, grad = (tensor.reshape(-1, x.shape[-1]) for tensor in (x, grads[0]))
            grad_x = flat.new_empty(flat.shape) if ctx.needs_input_grad[0] else None
            d_blocks = [torch.zeros_like(part) for part in (local, read, write)]
            d_mix = torch.zeros_like(mix)
            spread, spread_back = _spread(mix.mT, read), _spread(mix, read)
            for part, channels in zip(_token_slices(flat), all_channels, strict=True):
                grad_rows = products.rows_of(grad[part], local)
                grad_channels = products.read_channels(grad_rows, write)
                passed_back = spread_back @ grad_channels
                if grad_x is not None:
                    products.turn(grad_rows, local.mT, passed_back, read, grad_x[part])
                if learns:
                    rows = products.rows_of(flat[part], local)
                    products.add_gradients(d_blocks, rows, grad_rows, passed_back, spread @ channels)
                    d_mix.addmm_(channels, grad_channels.mT)
        grad_x = None if grad_x is None else grad_x.view(x.shape)
        return (grad_x, *d_blocks, d_mix) if learns else (grad_x, *[None] * 4)


def _token_slices(flat: Tensor) -> list[slice]:
    """Cut (tokens, d) so that on a CPU a slice stays in its cache; on other devices one slice is all."""
    tokens, width = flat.shape
    step = max(CACHED_NUMBERS // width, 1) if flat.device.type == "cpu" else max(tokens, 1)
    return [slice(start, start + step) for start in range(0, tokens, step)]


def _spread(mix: Tensor, read: Tensor) -> Tensor:
    """Repeat the mixing matrix' last k rows for every block, (blocks, 1 + k, blocks + k): what each one writes."""
    blocks = len(read)
    return torch.cat([mix[:blocks].unsqueeze(1), mix[blocks:].expand(blocks, -1, -1)], 1)
