"""The products of a rotation and the stretch in plain PyTorch, for any device and dtype.

`ropo.ops.gpu` has the same functions for GPUs, `ropo.ops.cpu` those of the stretch for CPUs. A block's coordinates are
read where they lie, d numbers apart from token to token, but products are written block by block, (blocks, tokens, B):
so all blocks are one batched product, and only its result has to be copied.
"""

from __future__ import annotations

__all__ = ["add_gradients", "gradients", "rotated", "stretched"]

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CACHED_NUMBERS = 1 << 20
"""Numbers of a slice of activations on a CPU: smaller ones would stay in a nearer cache, but make more calls."""


def rotated(
    x: Float[Tensor, "tokens d"],
    local: Float[Tensor, "blocks size size"],
    read: Float[Tensor, "blocks channels size"],
    write: Float[Tensor, "blocks channels size"],
    mix: Float[Tensor, "all all"],
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, "all tokens"]]:
    """Return x R in the dtype of x, rounded once, and the channels c^T, in that of the blocks; see `RotationBlocks`."""
    tokens, width = x.shape
    blocks, _, size = local.shape
    out, channels = x.new_empty(x.shape), local.new_empty(len(mix), tokens)
    for part in _token_slices(x):
        rows = _rows(x[part], local)
        each = torch.bmm(read, rows.mT)
        channels[:blocks, part], channels[blocks:, part] = each[:, 0], each[:, 1:].sum(0)
        passed = _spread(mix.mT @ channels[:, part], blocks)
        turned = torch.bmm(rows, local).baddbmm_(passed.mT, write).transpose(0, 1)
        if blocks * size == width:
            out[part].view(-1, blocks, size).copy_(turned)
        else:
            out[part].copy_(turned.reshape(-1, blocks * size)[:, :width])
    return out, channels


def add_gradients(
    x: Float[Tensor, "tokens d"],
    grad: Float[Tensor, "tokens d"],
    mixed: Float[Tensor, "all tokens"],
    mixed_back: Float[Tensor, "all tokens"],
    d_local: Float[Tensor, "blocks size size"],
    d_read: Float[Tensor, "blocks channels size"],
    d_write: Float[Tensor, "blocks channels size"],
) -> None:
    """Add the gradients of `local`, `read` and `write`.

    Args:
        x: Activations.
        grad: The gradient of x R.
        mixed: mix^T c^T, what was written.
        mixed_back: mix times what the gradient's channels are, sum_b grad_b write_b^T: the gradient of c^T.
        d_local: Where to add.
        d_read: Where to add.
        d_write: Where to add.
    """
    blocks = len(d_local)
    for part in _token_slices(x):
        rows, grad_rows = _rows(x[part], d_local), _rows(grad[part], d_local)
        d_local.baddbmm_(rows.mT, grad_rows)
        d_read.baddbmm_(_spread(mixed_back[:, part], blocks), rows)
        d_write.baddbmm_(_spread(mixed[:, part], blocks), grad_rows)


def _token_slices(flat: Tensor) -> list[slice]:
    """Cut (tokens, d) so that on a CPU a slice stays in its cache; on other devices one slice is all."""
    tokens, width = flat.shape
    step = max(CACHED_NUMBERS // width, 1) if flat.device.type == "cpu" else max(tokens, 1)
    return [slice(start, start + step) for start in range(0, tokens, step)]


def _rows(flat: Tensor, like: Tensor) -> Tensor:
    """See activations block by block, (blocks, tokens, B), as `local` is, with zeros behind the last coordinate."""
    blocks, size, _ = like.shape
    flat = flat.to(like.dtype)
    if blocks * size != flat.shape[1]:
        flat = functional.pad(flat, (0, blocks * size - flat.shape[1]))
    return flat.view(-1, blocks, size).transpose(0, 1)


def _spread(mixed: Tensor, blocks: int) -> Tensor:
    """Repeat the last k of (blocks + k, tokens) channels for every block: (blocks, 1 + k, tokens)."""
    return torch.cat([mixed[:blocks].unsqueeze(1), mixed[blocks:].expand(blocks, -1, -1)], 1)


def stretched(
    y: Float[Tensor, "*batch n"], log_scale: Float[Tensor, " n"], bias: Float[Tensor, " n"] | None
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, " n"]]:
    """Return exp(log_scale) (y - bias) + bias in plain PyTorch, in the dtype of y, and exp(log_scale)."""
    scale = log_scale.exp()
    return (y * scale if bias is None else torch.addcmul(bias - bias * scale, y, scale)).to(y.dtype), scale


def gradients(
    grad: Float[Tensor, "*batch n"],
    z: Float[Tensor, "*batch n"],
    scale: Float[Tensor, " n"],
    bias: Float[Tensor, " n"] | None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, " n"]]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    rows, outputs = (each.reshape(-1, len(scale)).to(scale.dtype) for each in (grad, z))
    with torch.autocast(grad.device.type, enabled=False):
        grad_log_scale = torch.linalg.vecdot(rows, outputs, dim=0)
    if bias is not None:
        grad_log_scale = grad_log_scale - rows.sum(0) * bias
    return (grad * scale).to(grad.dtype), grad_log_scale
