"""Choose who multiplies activations by a rotation's blocks: kernels or plain PyTorch."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ropo.kernels import Family, works_on
from ropo.rotations import batched
from ropo.rotations.plan import MAX_BLOCK


def products_for(x: Tensor, local: Tensor) -> ModuleType:
    """Return the module with `rotated` and `gradients` that knows the device, dtypes and sizes, else `batched`."""
    if x.dtype == torch.float64 or local.dtype != torch.float32 or local.shape[1] != MAX_BLOCK:
        return batched
    if works_on(x.device, "gpu", differences_on):
        return _kernels("gpu")
    if x.dtype == torch.float32 and x.shape[-1] % MAX_BLOCK == 0 and works_on(x.device, "cpu", differences_on):
        return _kernels("cpu")
    return batched


def differences_on(device: torch.device, family: Family) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    tokens, blocks, shared = 300, 3, 2
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    x, grad = random(tokens, blocks * MAX_BLOCK), random(tokens, blocks * MAX_BLOCK)
    local, read = random(blocks, MAX_BLOCK, MAX_BLOCK), random(blocks, 1 + shared, MAX_BLOCK)
    mix, mixed = random(blocks + shared, blocks + shared), random(blocks + shared, tokens)
    ours, theirs = (
        (
            *each.rotated(x, local.mT, read, read.flip(0), mix),
            *each.gradients(x, grad, mixed, mixed.flip(0), local, read),
        )
        for each in (_kernels(family), batched)
    )
    return [float((our - their).norm() / their.norm()) for our, their in zip(ours, theirs, strict=True)]


def _kernels(family: Family) -> ModuleType:
    if family == "gpu":
        from ropo.kernels.gpu import rotation as on_gpu  # imports Triton, which is not on every machine

        return on_gpu
    from ropo.kernels.cpu import rotation as on_cpu

    return on_cpu
