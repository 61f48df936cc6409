"""Multiply activations by RoPO's rotation: the fast paths."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.blocks import RotationBlocks
from ropo.ops.planes import Planes, turn_planes
from ropo.ops.products import products_for


def rotate(x: Float[Tensor, "*batch d"], rotation: RotationBlocks | Planes) -> Float[Tensor, "*batch d"]:
    """Return x @ R for rows x.

    Equal to `ropo_rotation(...).apply(x)`, with blocks at the cost of two small matrix products for each of them.

    Args:
        x: (*batch, d) activations of any floating dtype.
        rotation: R, from `build_blocks`, in float32 or float64; or `Planes`.

    Returns:
        (*batch, d) in the dtype of x.

    Cost: 2 tokens d (B + 2 + 2 k) multiplications forward, three times that backward. Arithmetic in the blocks' dtype,
    one rounding. For the backward pass it keeps x itself and d / B + k numbers a token. With planes as `turn_planes`
    says.
    """
    if isinstance(rotation, Planes):
        return turn_planes(x, rotation)
    return _Rotate.apply(x, rotation.packed, rotation.reflections)


class _Rotate(torch.autograd.Function):
    """One node of the graph, so that only x and the channels are kept; see `RotationBlocks` for the equations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, reflections: int) -> Tensor:
        ctx.products, ctx.reflections = products_for(x, packed), reflections
        with torch.autocast(x.device.type, enabled=False):
            blocks = RotationBlocks(packed, x.shape[-1], reflections)
            out, channels = ctx.products.rotated(x.reshape(-1, blocks.dim), *blocks.parts())
            ctx.save_for_backward(x, packed, channels)
            return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, packed, channels = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            blocks = RotationBlocks(packed, x.shape[-1], ctx.reflections)
            local, read, write, mix = blocks.parts()
            flat, grad = (tensor.reshape(-1, blocks.dim) for tensor in (x, grads[0]))
            # Back through a rotation is the same with all matrices transposed: reading and writing change places.
            grad_x, grad_channels = ctx.products.rotated(grad, local.mT, write, read, mix.mT)
            if not ctx.needs_input_grad[1]:
                return grad_x.view(x.shape), None, None
            d_blocks = blocks._replace(packed=torch.zeros_like(packed))
            d_local, d_read, d_write, d_mix = d_blocks.parts()
            d_mix.addmm_(channels, grad_channels.mT)
            ctx.products.add_gradients(flat, grad, mix.mT @ channels, mix @ grad_channels, d_local, d_read, d_write)
            return grad_x.view(x.shape), d_blocks.packed, None
