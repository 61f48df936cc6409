"""The products of a rotation on a CPU; `ropo.rotations.batched` has the same two in plain PyTorch.

Only float32, and only widths that are whole blocks: what language models have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ropo.kernels.cpu.library import call

TILE = 32
"""Tokens that one thread works on at a time, as in rotation.c."""


def rotated(x: Tensor, local: Tensor, read: Tensor, write: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotated activations, (tokens, d), and the channels, (blocks + k, tokens)."""
    x, local, read, write, to_mixed = (tensor.contiguous() for tensor in (x, local, read, write, mix.mT))
    out, channels = torch.empty_like(x), x.new_empty(len(mix), len(x))
    scratch = x.new_empty(torch.get_num_threads(), 2, len(mix), TILE)
    sizes = (*x.shape, read.shape[1] - 1)
    call("ropo_rotate", sizes, (x, local, read, write, to_mixed, out, channels, scratch))
    return out, channels


def gradients(
    x: Tensor, grad: Tensor, mixed: Tensor, mixed_back: Tensor, local: Tensor, read: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `local`, `read` and `write`, the latter two of one shape."""
    x, grad, mixed, mixed_back = (tensor.contiguous() for tensor in (x, grad, mixed, mixed_back))
    d_local, d_read, d_write = (each.new_empty(each.shape) for each in (local, read, read))
    sizes = (*x.shape, read.shape[1] - 1)
    call("ropo_rotation_gradients", sizes, (x, grad, mixed, mixed_back, d_local, d_read, d_write))
    return d_local, d_read, d_write
