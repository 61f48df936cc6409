"""Who computes: C on CPUs, Triton on GPUs, plain PyTorch elsewhere. Every such choice is made here.

Kernels are used only where they have reproduced plain PyTorch on that very device, once a process.

| | readable | plain PyTorch | C (`cpu/`) | Triton (`gpu/`) |
|---|---|---|---|---|
| rotate | `reference.ropo_rotation` | `plain`, by blocks | by planes | by blocks |
| stretch | `reference.stretched_plainly` | `plain` | yes | yes |
"""

from __future__ import annotations

__all__ = ["Family", "kernels_on", "try_rotation"]

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ropo.ops import cpu, plain
from ropo.ops.cpu.library import compiler
from ropo.ops.reference import ropo_rotation, stretched_plainly
from ropo.ops.trees import MAX_BLOCK, block_size

Family = Literal["cpu", "gpu"]
_Trial = Callable[[torch.device, Family], list[float]]

_TOLERANCE = 1e-5
"""Relative, between two float32 computations of the same sums of some hundred products in different orders."""


@runtime_checkable
class _BlockProducts(Protocol):
    """What multiplies with a rotation's blocks, forward and for their gradients: `plain` or `gpu.rotation`."""

    def rotated(
        self, x: Tensor, local: Tensor, read: Tensor, write: Tensor, mix: Tensor, /
    ) -> tuple[Tensor, Tensor]: ...

    def add_gradients(
        self,
        x: Tensor,
        grad: Tensor,
        mixed: Tensor,
        mixed_back: Tensor,
        d_local: Tensor,
        d_read: Tensor,
        d_write: Tensor,
        /,
    ) -> None: ...


@runtime_checkable
class _Stretching(Protocol):
    """What stretches, forward and backward: `plain`, `cpu.stretch` or `gpu.stretch`."""

    def stretched(self, y: Tensor, log_scale: Tensor, bias: Tensor | None, /) -> tuple[Tensor, Tensor]: ...

    def gradients(self, grad: Tensor, z: Tensor, scale: Tensor, bias: Tensor | None, /) -> tuple[Tensor, Tensor]: ...


def by_planes(part: Tensor) -> bool:
    """Tell whether kernels rotate plane by plane, from parameters of which `part` is one; else blocks must be built.

    Plain float32 tensors only: sharded ones have not all their numbers here.
    """
    plain_tensor = type(part) in (Tensor, torch.nn.Parameter) and part.dtype == torch.float32
    return plain_tensor and kernels_on(part.device, try_rotation) == "cpu"


def products_for(x: Tensor, packed: Tensor) -> _BlockProducts:
    """Return who multiplies activations x by a rotation's packed blocks."""
    if x.dtype == torch.float64 or packed.dtype != torch.float32 or block_size(x.shape[-1]) != MAX_BLOCK:
        return plain
    return _gpu_rotation() if kernels_on(x.device, try_rotation) == "gpu" else plain


def stretching_for(y: Tensor, scale: Tensor) -> _Stretching:
    """Return who stretches outputs y."""
    if y.dtype == torch.float64 or scale.dtype != torch.float32:
        return plain
    family = kernels_on(y.device, try_stretch)
    if family is None or (family == "cpu" and y.dtype != torch.float32):
        return plain
    return _stretch_kernels(family)


def kernels_on(device: torch.device, trial: _Trial) -> Family | None:
    """Tell which kernels, `ropo.ops.cpu` or `ropo.ops.gpu`, to use on a device; None for plain PyTorch.

    Those for GPUs need Triton and a GPU that it knows; with `TRITON_INTERPRET=1` in the environment they run on a CPU,
    slowly, for tests. Those for CPUs need a C compiler on Linux.

    Args:
        device: Where the tensors are.
        trial: Runs the kernels on something small there and returns how far each result is from that of plain PyTorch,
            relatively. Called once a device; where it fails or a difference is too large, a warning says so.
    """
    if not torch.compiler.is_compiling():
        return _tried(device, trial)
    # A compiler makes its own CPU kernels of plain PyTorch.
    return None if device.type == "cpu" else _constant(str(device), trial)


@torch.compiler.assume_constant_result  # a compiler must neither trace the trial nor break the graph for it
def _constant(device: str, trial: _Trial) -> Family | None:
    return _tried(torch.device(device), trial)


@lru_cache(maxsize=64)
def _tried(device: torch.device, trial: _Trial) -> Family | None:
    families: tuple[Family, ...] = ("gpu", "cpu")
    return next((each for each in families if _available(each, device.type) and _passes(each, device, trial)), None)


def _available(family: Family, device_type: str) -> bool:
    if family == "cpu":
        return device_type == "cpu" and compiler() is not None
    interpreted = device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return (device_type == "cuda" or interpreted) and find_spec("triton") is not None


def _passes(family: Family, device: torch.device, trial: _Trial) -> bool:
    try:
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.enable_grad(), _unseen():
            found = trial(device, family)
        far = [each for each in found if not each <= _TOLERANCE]
        why = f"they are off by {max(far):.1e}" if far else ""
    except Exception as error:  # whatever a driver, a compiler or a processor unknown to it comes up with
        why = f"{type(error).__name__}: {error}"
    if why:
        warnings.warn(
            f"RoPO's {family.upper()} kernels do not work on {device}; plain PyTorch is slower: {why}", stacklevel=2
        )
    return not why


def _unseen() -> AbstractContextManager[Any]:
    """Keep what a trial saves for its gradients from a checkpoint around it, which counts the tensors of a layer.

    The trial runs in the first forward pass only: a layer computed again would have saved fewer.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def try_rotation(device: torch.device, family: Family) -> list[float]:
    """Return how far a rotation by kernels, and its gradients, are from those by plain PyTorch, relatively."""
    return _planes_off(device) if family == "cpu" else _products_off(device)


def try_stretch(device: torch.device, family: Family) -> list[float]:
    """Return how far a stretch by kernels, and its gradients, are from those by plain PyTorch, relatively."""
    kernels = _stretch_kernels(family)
    y, grad, log_scale, bias = _random(device, (300, 70), (300, 70), (70,), (70,))
    z, scale = kernels.stretched(y, log_scale, bias)
    ours = z, *kernels.gradients(grad, z, scale, bias)
    leaves = [y.requires_grad_(), log_scale.requires_grad_()]
    output = stretched_plainly(y, log_scale, bias)
    return _distances(ours, (output.detach(), *torch.autograd.grad(output, leaves, grad)))


def _planes_off(device: torch.device) -> list[float]:
    width = 3 * MAX_BLOCK + 5
    x, grad, *parts = _random(device, (300, width), (300, width), (2, width - 1), (2, width))
    turned, table = cpu.rotation.turned(x, *parts)
    ours = turned, *cpu.rotation.turned_back(x, grad, table, *map(len, parts))
    leaves = [each.requires_grad_() for each in (x, *parts)]
    output = ropo_rotation(width, *leaves[1:]).apply(leaves[0])
    return _distances(ours, (output.detach(), *torch.autograd.grad(output, leaves, grad)))


def _products_off(device: torch.device) -> list[float]:
    blocks, size, width = 4, MAX_BLOCK, 3 * MAX_BLOCK + 5
    shapes = (300, width), (300, width), (blocks, size, size), (blocks, 3, size), (blocks, 3, size), (blocks + 2,) * 2
    x, grad, local, read, write, mix = _random(device, *shapes)

    def results(products: _BlockProducts) -> tuple[Tensor, ...]:
        sums = [torch.zeros_like(each) for each in (local, read, write)]
        out, channels = products.rotated(x, local.mT, read, write, mix)
        products.add_gradients(x, grad, channels, channels.flip(0), *sums)
        return out, channels, *sums

    return _distances(results(_gpu_rotation()), results(plain))


def _random(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, device=device, generator=generator) for shape in shapes]


def _distances(ours: tuple[Tensor | None, ...], theirs: tuple[Tensor, ...]) -> list[float]:
    found = [our for our in ours if our is not None]
    return [float((our - their).norm() / their.norm()) for our, their in zip(found, theirs, strict=True)]


def _stretch_kernels(family: Family) -> _Stretching:
    if family == "cpu":
        return cpu.stretch
    from ropo.ops.gpu import stretch  # imports Triton, which is not on every machine

    return stretch


def _gpu_rotation() -> _BlockProducts:
    from ropo.ops.gpu import rotation  # imports Triton, which is not on every machine

    return rotation
