"""Try the kernels that rotate activations against plain PyTorch, on something small; see `ropo.ops.trust`."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ropo.ops import batched
from ropo.ops.blocks import build_blocks
from ropo.ops.cpu import rotation as on_cpu
from ropo.ops.plan import MAX_BLOCK
from ropo.ops.product import ropo_rotation
from ropo.ops.trust import Family


def differences_on(device: torch.device, family: Family) -> list[float]:
    """Return how far the kernels are from plain PyTorch, relatively, for each of their results."""
    tokens, width = 300, 3 * MAX_BLOCK + 5
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    given = random(tokens, width), random(tokens, width), random(2, width - 1), random(2, width)
    pair = (_planes_by_kernels, _planes_by_reference) if family == "cpu" else (_products_by_kernels, _products_by_torch)
    ours, theirs = (results(*given) for results in pair)
    return [float((our - their).norm() / their.norm()) for our, their in zip(ours, theirs, strict=True)]


def _planes_by_kernels(x: Tensor, grad: Tensor, givens: Tensor, reflections: Tensor) -> list[Tensor]:
    out, table = on_cpu.rotated(x, givens, reflections)
    grads = on_cpu.rotated_back(x, grad, table, len(givens), len(reflections))
    return [out, *(each for each in grads if each is not None)]


def _planes_by_reference(x: Tensor, grad: Tensor, *parts: Tensor) -> list[Tensor]:
    leaves = [each.requires_grad_() for each in (x.clone(), *(part.clone() for part in parts))]
    out = ropo_rotation(x.shape[-1], *leaves[1:]).apply(leaves[0])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _products_by_kernels(*given: Tensor) -> list[Tensor]:
    from ropo.ops.gpu import rotation as on_gpu  # imports Triton, which is not on every machine

    return _products(on_gpu, *given)


def _products_by_torch(*given: Tensor) -> list[Tensor]:
    return _products(batched, *given)


def _products(module: ModuleType, x: Tensor, grad: Tensor, givens: Tensor, reflections: Tensor) -> list[Tensor]:
    blocks = build_blocks(x.shape[-1], givens, reflections)
    local, read, write, mix = blocks.parts()
    sums = [torch.zeros_like(each) for each in (local, read, write)]
    out, channels = module.rotated(x, local.mT, read, write, mix)
    module.add_gradients(x, grad, channels, channels.flip(0), *sums)
    return [out, channels, *sums]
