"""Decide whether kernels are used on a device: only after they have reproduced plain PyTorch there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal

import torch

from ropo.kernels.cpu.library import compiler

Family = Literal["cpu", "gpu"]
Trial = Callable[[torch.device, Family], list[float]]

TOLERANCE = 1e-5
"""Relative, between two float32 computations of the same sums of some hundred products in different orders."""


def works_on(device: torch.device, family: Family, trial: Trial) -> bool:
    """Tell whether to use some kernels of `ropo.kernels.cpu` or `ropo.kernels.gpu` on a device.

    Those for GPUs need Triton and a GPU that it knows; with `TRITON_INTERPRET=1` in the environment they run on a CPU,
    slowly, for tests. Those for CPUs need a C compiler on Linux.

    Args:
        device: Where the tensors are.
        family: Which kernels.
        trial: Runs the kernels on something small there and returns how far each result is from that of plain PyTorch,
            relatively. Called once a device; where it fails or a difference is too large, a warning says so.
    """
    # What is being compiled has no numbers yet, and a compiler makes its own CPU kernels of plain PyTorch.
    if family == "cpu" and torch.compiler.is_compiling():
        return False
    return _works(family, str(device), trial)


@torch.compiler.assume_constant_result  # a compiler must neither trace the trial nor break the graph for it
def _works(family: Family, device: str, trial: Trial) -> bool:
    return _tried(family, device, trial)


@lru_cache(maxsize=64)
def _tried(family: Family, device: str, trial: Trial) -> bool:
    if not _available(family, torch.device(device).type):
        return False
    try:
        found = trial(torch.device(device), family)
        far = [each for each in found if not each <= TOLERANCE]
        why = f"they are off by {max(far):.1e}" if far else ""
    except Exception as error:  # whatever a driver, a compiler or a processor unknown to it comes up with
        why = f"{type(error).__name__}: {error}"
    if why:
        warnings.warn(
            f"RoPO's {family.upper()} kernels do not work on {device}; plain PyTorch is slower: {why}", stacklevel=2
        )
    return not why


def _available(family: Family, device_type: str) -> bool:
    if family == "cpu":
        return device_type == "cpu" and compiler() is not None
    interpreted = device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return (device_type == "cuda" or interpreted) and find_spec("triton") is not None
