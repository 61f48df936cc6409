"""C kernels for CPUs: each does in one pass through the cache what plain PyTorch needs several through memory for."""
