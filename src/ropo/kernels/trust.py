"""Decide whether Triton kernels are used on a device: only after they have reproduced plain PyTorch there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch

TOLERANCE = 1e-5
"""Relative, between two float32 computations of the same sums of some hundred products in different orders."""


def fused_on(device: torch.device, differences: Callable[[torch.device], list[float]]) -> bool:
    """Tell whether to use some kernels on a device.

    They need Triton and a GPU that it knows; with `TRITON_INTERPRET=1` in the environment they run on a CPU, slowly,
    for tests.

    Args:
        device: Where the tensors are.
        differences: Runs the kernels on something small there and returns how far each result is from that of plain
            PyTorch, relatively. Called once a device; where it fails or a difference is too large, a warning says so.
    """
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return False
    return find_spec("triton") is not None and _works(str(device), differences)


@torch.compiler.assume_constant_result  # a compiler must neither trace the trial nor break the graph for it
def _works(device: str, differences: Callable[[torch.device], list[float]]) -> bool:
    return _tried(device, differences)


@lru_cache(maxsize=64)
def _tried(device: str, differences: Callable[[torch.device], list[float]]) -> bool:
    try:
        found = differences(torch.device(device))
        far = [each for each in found if not each <= TOLERANCE]
        why = f"they are off by {max(far):.1e}" if far else ""
    except Exception as error:  # whatever a driver, a compiler or a GPU unknown to Triton comes up with
        why = f"{type(error).__name__}: {error}"
    if why:
        warnings.warn(f"RoPO's Triton kernels do not work on {device}; plain PyTorch is slower: {why}", stacklevel=2)
    return not why
