"""The products of a rotation in plain PyTorch, for any device and dtype; `ropo.kernels.rotation` has them for GPUs.

A block's coordinates are read where they lie, d numbers apart from token to token, but products are written block by
block, (blocks, tokens, B): so all blocks are one batched product, and only its result has to be copied.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def rows_of(
    flat: Float[Tensor, "tokens d"], local: Float[Tensor, "blocks size size"]
) -> Float[Tensor, "blocks tokens size"]:
    """See activations block by block, zeros behind the last coordinate, in the arithmetic's dtype."""
    blocks, size, _ = local.shape
    flat = flat.to(local.dtype)
    if blocks * size != flat.shape[1]:
        flat = functional.pad(flat, (0, blocks * size - flat.shape[1]))
    return flat.view(-1, blocks, size).transpose(0, 1)


def read_channels(
    rows: Float[Tensor, "blocks tokens size"], read: Float[Tensor, "blocks channels size"]
) -> Float[Tensor, "blocks_and_k tokens"]:
    """Return channel 0 of each block, then the sums over blocks of the others."""
    each = torch.bmm(read, rows.mT)
    return torch.cat([each[:, 0], each[:, 1:].sum(0)])


def turn(
    rows: Float[Tensor, "blocks tokens size"],
    local: Float[Tensor, "blocks size size"],
    passed: Float[Tensor, "blocks channels tokens"],
    write: Float[Tensor, "blocks channels size"],
    out: Float[Tensor, "tokens d"],
) -> None:
    """Write x_b local_b + passed_b^T write_b to `out`, rounding once to its dtype.

    Args:
        rows: x, block by block.
        local: (blocks, B, B).
        passed: What each channel brings to each block.
        write: (blocks, 1 + k, B).
        out: (tokens, d).
    """
    blocks, tokens, size = rows.shape
    turned = torch.bmm(rows, local).baddbmm_(passed.mT, write).transpose(0, 1)
    if blocks * size == out.shape[-1]:
        out.view(tokens, blocks, size).copy_(turned)
    else:
        out.copy_(turned.reshape(tokens, blocks * size)[:, : out.shape[-1]])


def add_gradients(
    totals: list[Tensor],
    rows: Float[Tensor, "blocks tokens size"],
    grad_rows: Float[Tensor, "blocks tokens size"],
    passed_back: Float[Tensor, "blocks channels tokens"],
    passed: Float[Tensor, "blocks channels tokens"],
) -> None:
    """Add to `totals` the gradients of `local`, `read` and `write`.

    Args:
        totals: (blocks, B, B) and twice (blocks, 1 + k, B).
        rows: x, block by block.
        grad_rows: The gradient of its rotation, block by block.
        passed_back: What the channels' gradients bring to each block.
        passed: What the channels brought to each block.
    """
    d_local, d_read, d_write = totals
    d_local.baddbmm_(rows.mT, grad_rows)
    d_read.baddbmm_(passed_back, rows)
    d_write.baddbmm_(passed, grad_rows)
