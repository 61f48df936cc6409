"""What this machine and this installation are: versions, devices, cores, memory."""

from __future__ import annotations

__all__ = ["describe_environment", "untested_lines"]

import os
import platform
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ropo.core.cache import cache_root, size_of
from ropo.core.record import device_name, git_commit, library_versions
from ropo.ops.choose import Family, kernels_on, try_rotation


def kernels_in_use() -> list[Family]:
    """Return which of `ropo.ops` work on this machine's devices; where none do, plain PyTorch does."""
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    return [family for device in devices if (family := kernels_on(device, try_rotation)) is not None]


def tested_ranges() -> dict[str, SpecifierSet]:
    """Return the range of versions that ropo is tested with, for each library; none where it was not installed."""
    try:
        requirements = [Requirement(text) for text in requires("ropo") or ()]
    except PackageNotFoundError:  # run from its sources
        return {}
    return {each.name: each.specifier for each in requirements if each.marker is None}


def _untested_versions() -> dict[str, str]:
    """Return the tested range of each library whose installed version is outside of it."""
    ranges = tested_ranges()
    return {
        name: str(ranges[name])
        for name, found in library_versions().items()
        if name in ranges and not ranges[name].contains(found, prereleases=True)
    }


def untested_lines() -> list[str]:
    """Return a line for a reader for each of `_untested_versions`."""
    versions = library_versions()
    return [
        f"{name} {versions[name]} is not tested with ropo; tested is {name}{tested}"
        for name, tested in _untested_versions().items()
    ]


def describe_environment() -> dict[str, Any]:
    """Describe the installation and the machine.

    Returns:
        `versions`, `untested` (library: the range that its version is outside of), `torch_build`, `devices`, `kernels`
        (see `kernels_in_use`), `cores`, `memory_gb`, `platform`, `cache` (its `folder` and `bytes`) and `git_commit`.
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": library_versions(),
        "untested": _untested_versions(),
        "torch_build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only",
        "devices": gpus or [device_name()],
        "kernels": kernels_in_use(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "platform": platform.platform(),
        "cache": {"folder": str(cache_root()), "bytes": size_of(cache_root())},
        "git_commit": git_commit(),
    }
