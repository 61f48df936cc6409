"""C kernels for CPUs: each does in one pass through the cache what plain PyTorch needs several through memory for."""

from ropo.ops.cpu import rotation, stretch

__all__ = ["rotation", "stretch"]
