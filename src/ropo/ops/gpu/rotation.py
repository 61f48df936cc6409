"""The products of a rotation on a GPU; `ropo.ops.plain` has the same two in plain PyTorch.

Activations are read in their own dtype and multiplied in float32, so that no float32 copy of them is ever made. Sums
over tokens and over blocks are written in parts and added by PyTorch: no atomics, hence the same result each time.
Triton launches on the current GPU, so the activations' own is made the current one: a model may lie on several.
"""

from __future__ import annotations

__all__ = ["add_gradients", "rotated"]

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 64
"""Tokens that one program works on."""
SUMMED = 32
"""Tokens that a program for the gradients adds at a time: with 64, some of its numbers find no register."""
PROGRAMS = 1024
"""Programs for the gradients: some for each multiprocessor of a large GPU."""


def rotated(x: Tensor, local: Tensor, read: Tensor, write: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotated activations, (tokens, d), and the channels, (blocks + k, tokens)."""
    tokens, width = x.shape
    blocks, channels, size = read.shape
    each, out = read.new_empty(channels, blocks, tokens), x.new_empty(x.shape)
    grid = triton.cdiv(tokens, TOKENS), blocks
    with torch.cuda.device_of(x):
        if tokens:
            _read[grid](x, read.contiguous(), each, tokens, width, blocks, *x.stride(), channels, size, TOKENS)
        read_from_x = torch.cat([each[0], each[1:].sum(1)])
        if tokens:
            _turn[grid](
                *(x, local, mix.mT @ read_from_x, write.contiguous(), out, tokens, width),
                *(*x.stride(), *local.stride(), *out.stride(), channels, size, TOKENS),
            )
    return out, read_from_x


def add_gradients(
    x: Tensor, grad: Tensor, mixed: Tensor, mixed_back: Tensor, d_local: Tensor, d_read: Tensor, d_write: Tensor
) -> None:
    """Add the gradients of `local`, `read` and `write`, the latter two of one shape."""
    tokens, width = x.shape
    blocks, channels, size = d_read.shape
    steps = triton.cdiv(tokens, SUMMED)
    splits = max(min(steps, PROGRAMS // blocks), 1)
    parts = [each.new_zeros(splits, *each.shape) for each in (d_local, d_read, d_write)]
    if tokens:
        with torch.cuda.device_of(x):
            _gradients[blocks, splits](
                *(x, grad, mixed_back.contiguous(), mixed.contiguous(), *parts, tokens, width),
                *(*x.stride(), *grad.stride(), triton.cdiv(steps, splits) * SUMMED, channels),
                *(max(triton.next_power_of_2(channels), 16), size, SUMMED),
            )
    for total, part in zip((d_local, d_read, d_write), parts, strict=True):
        total += part.sum(0)


@triton.jit
def _read(
    x,
    read,
    each,
    tokens,
    width,
    blocks,
    stride_token,
    stride_coordinate,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    block, token, coordinate = tl.program_id(1), _tokens(tl.program_id(0), 0, TOKENS, TOKENS), tl.arange(0, BLOCK)
    rows = _load(x, token, block * BLOCK + coordinate, tokens, width, stride_token, stride_coordinate)
    for channel in tl.static_range(CHANNELS):
        vector = tl.load(read + (block * CHANNELS + channel) * BLOCK + coordinate)
        to = each + (channel * blocks + block).to(tl.int64) * tokens + token
        tl.store(to, tl.sum(rows * vector[None, :], 1), mask=token < tokens)


@triton.jit
def _turn(
    x,
    local,
    mixed,
    write,
    out,
    tokens,
    width,
    stride_token,
    stride_coordinate,
    stride_block,
    stride_from,
    stride_to,
    stride_out_token,
    stride_out_coordinate,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    block, token, coordinate = tl.program_id(1), _tokens(tl.program_id(0), 0, TOKENS, TOKENS), tl.arange(0, BLOCK)
    column = block * BLOCK + coordinate
    rows = _load(x, token, column, tokens, width, stride_token, stride_coordinate)
    entry = block * stride_block + coordinate[:, None] * stride_from + coordinate[None, :] * stride_to
    turned = tl.dot(rows, tl.load(local + entry), input_precision="ieee")
    for channel in tl.static_range(CHANNELS):
        place = _place(block, channel, tl.num_programs(1)).to(tl.int64) * tokens + token
        brought = tl.load(mixed + place, mask=token < tokens, other=0.0)
        turned += brought[:, None] * tl.load(write + (block * CHANNELS + channel) * BLOCK + coordinate)[None, :]
    to = out + token[:, None] * stride_out_token + column[None, :] * stride_out_coordinate
    tl.store(to, turned.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (column < width)[None, :])


@triton.jit
def _gradients(
    x,
    grad,
    mixed_back,
    mixed,
    d_local,
    d_read,
    d_write,
    tokens,
    width,
    stride_token,
    stride_coordinate,
    stride_grad_token,
    stride_grad_coordinate,
    tokens_of_split,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    block, split = tl.program_id(0), tl.program_id(1)
    coordinate, channel = tl.arange(0, BLOCK), tl.arange(0, ROWS)
    column, row = block * BLOCK + coordinate, _place(block, channel, tl.num_programs(0))
    sum_local = tl.zeros((BLOCK, BLOCK), tl.float32)
    sum_read = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_write = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, tokens_of_split, TOKENS):
        token = _tokens(split, start, tokens_of_split, TOKENS)
        rows = _load(x, token, column, tokens, width, stride_token, stride_coordinate)
        grads = _load(grad, token, column, tokens, width, stride_grad_token, stride_grad_coordinate)
        place = row[:, None].to(tl.int64) * tokens + token[None, :]
        inside = (channel < CHANNELS)[:, None] & (token < tokens)[None, :]
        sum_local += tl.dot(tl.trans(rows), grads, input_precision="ieee")
        sum_read += tl.dot(tl.load(mixed_back + place, mask=inside, other=0.0), rows, input_precision="ieee")
        sum_write += tl.dot(tl.load(mixed + place, mask=inside, other=0.0), grads, input_precision="ieee")
    part = split * tl.num_programs(0) + block
    square = coordinate[:, None] * BLOCK + coordinate[None, :]
    tl.store(d_local + part * BLOCK * BLOCK + square, sum_local)
    strip = (part * CHANNELS + channel[:, None]) * BLOCK + coordinate[None, :]
    real = (channel < CHANNELS)[:, None]
    tl.store(d_read + strip, sum_read, mask=real)
    tl.store(d_write + strip, sum_write, mask=real)


@triton.jit
def _place(block, channel, blocks):
    # Where a block's channel is among all of them: its own stands at its number, the shared ones behind all blocks'.
    return tl.where(channel == 0, block, blocks + channel - 1)


@triton.jit
def _tokens(part, start, tokens_of_part, TOKENS: tl.constexpr):
    # Long contexts of wide models pass 2^31 numbers, so offsets are counted in 64 bits.
    return part.to(tl.int64) * tokens_of_part + start + tl.arange(0, TOKENS)


@triton.jit
def _load(x, token, column, tokens, width, stride_token, stride_coordinate):
    place = x + token[:, None] * stride_token + column[None, :] * stride_coordinate
    return tl.load(place, mask=(token < tokens)[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
