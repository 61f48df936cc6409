"""Triton kernels for GPUs: each does in one pass over the activations what plain PyTorch needs several for."""
