"""Multiply activations by RoPO's rotation: the fast path."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.rotations.blocks import RotationBlocks
from ropo.rotations.products import products_for


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
            flat = x.reshape(-1, x.shape[-1])
            out, channels = products_for(x, local).rotated(flat, local, read, write, mix)
            ctx.save_for_backward(x, local, read, write, mix, channels)
            return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, local, read, write, mix, channels = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            products = products_for(x, local)
            flat, grad = (tensor.reshape(-1, x.shape[-1]) for tensor in (x, grads[0]))
            # Back through a rotation is the same with all matrices transposed: reading and writing change places.
            grad_x, grad_channels = products.rotated(grad, local.mT, write, read, mix.mT)
            grad_x = grad_x.view(x.shape)
            if not any(ctx.needs_input_grad[1:]):
                return grad_x, None, None, None, None
            mixed, mixed_back = mix.mT @ channels, mix @ grad_channels
            d_blocks = products.gradients(flat, grad, mixed, mixed_back, local, read)
            return grad_x, *d_blocks, channels @ grad_channels.mT
