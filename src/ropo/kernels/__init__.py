"""Triton kernels for GPUs: each does in one pass over the activations what plain PyTorch needs several for."""

from ropo.kernels.trust import fused_on

__all__ = ["fused_on"]
