"""Kernels for GPUs and CPUs, used only where they have reproduced plain PyTorch."""

from ropo.kernels.trust import Family, works_on

__all__ = ["Family", "works_on"]
