"""Kernels for GPUs and CPUs, used only where they have reproduced plain PyTorch."""

from ropo.kernels.trust import Family, kernels_on

__all__ = ["Family", "kernels_on"]
