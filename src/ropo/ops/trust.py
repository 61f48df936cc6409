"""Decide which kernels are used on a device: only those that have reproduced plain PyTorch there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal

import torch

from ropo.ops.cpu.library import compiler

Family = Literal["cpu", "gpu"]
Trial = Callable[[torch.device, Family], list[float]]

TOLERANCE = 1e-5
"""Relative, between two float32 computations of the same sums of some hundred products in different orders."""


def kernels_on(device: torch.device, trial: Trial) -> Family | None:
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
def _constant(device: str, trial: Trial) -> Family | None:
    return _tried(torch.device(device), trial)


@lru_cache(maxsize=64)
def _tried(device: torch.device, trial: Trial) -> Family | None:
    families: tuple[Family, ...] = ("gpu", "cpu")
    return next((each for each in families if _available(each, device.type) and _passes(each, device, trial)), None)


def _available(family: Family, device_type: str) -> bool:
    if family == "cpu":
        return device_type == "cpu" and compiler() is not None
    interpreted = device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return (device_type == "cuda" or interpreted) and find_spec("triton") is not None


def _passes(family: Family, device: torch.device, trial: Trial) -> bool:
    try:
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.enable_grad():
            found = trial(device, family)
        far = [each for each in found if not each <= TOLERANCE]
        why = f"they are off by {max(far):.1e}" if far else ""
    except Exception as error:  # whatever a driver, a compiler or a processor unknown to it comes up with
        why = f"{type(error).__name__}: {error}"
    if why:
        warnings.warn(
            f"RoPO's {family.upper()} kernels do not work on {device}; plain PyTorch is slower: {why}", stacklevel=2
        )
    return not why
