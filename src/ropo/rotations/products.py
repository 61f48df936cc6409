"""Choose who multiplies activations by a rotation's blocks: Triton kernels or plain PyTorch."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ropo.kernels import fused_on
from ropo.rotations import batched
from ropo.rotations.plan import MAX_BLOCK


def products_for(x: Tensor, local: Tensor) -> ModuleType:
    """Return `ropo.kernels.rotation` where it knows the device, the dtypes and the blocks' size, else `batched`."""
    plain = x.dtype == torch.float64 or local.dtype != torch.float32 or local.shape[1] != MAX_BLOCK
    if plain or not fused_on(x.device, differences_on):
        return batched
    from ropo.kernels import rotation  # imports Triton, which is not on every machine

    return rotation


def differences_on(device: torch.device) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    from ropo.kernels import rotation

    tokens, width, blocks, channels = 300, 70, 3, 3
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    x, grad, local = random(tokens, width), random(tokens, width), random(blocks, MAX_BLOCK, MAX_BLOCK)
    vectors, passed = random(blocks, channels, MAX_BLOCK), random(blocks, channels, tokens)
    results = []
    for products in (rotation, batched):
        rows, grad_rows = products.rows_of(x, local), products.rows_of(grad, local)
        out, totals = torch.empty_like(x), [torch.zeros_like(each) for each in (local, vectors, vectors)]
        products.turn(rows, local.mT, passed, vectors, out)
        products.add_gradients(totals, rows, grad_rows, passed, passed.flip(0))
        results.append([products.read_channels(rows, vectors), out, *totals])
    # Blocks reach beyond `width`: what stands there in the gradients belongs to no coordinate, and is zero in both.
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*results, strict=True)]
