"""The stretch of a layer's output on a GPU; `ropo.ops.stretching` has the equation, `ropo.ops.plain` the same two."""

from __future__ import annotations

__all__ = ["gradients", "stretched"]

import torch
import triton
import triton.language as tl
from torch import Tensor

NEURONS = 64
"""Neurons that one program works on."""
TOKENS = 16
"""Tokens that one program works on at a time."""
PROGRAMS = 1024
"""Programs for the gradients: some for each multiprocessor of a large GPU."""


def stretched(y: Tensor, log_scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return exp(log_scale) (y - bias) + bias for outputs y, in their dtype, and exp(log_scale)."""
    scale, rows = log_scale.exp(), y.reshape(-1, y.shape[-1])
    tokens, neurons = rows.shape
    z = y.new_empty(y.shape)
    if tokens:
        with torch.cuda.device_of(y):
            _stretch[triton.cdiv(tokens, TOKENS), triton.cdiv(neurons, NEURONS)](
                rows, scale, bias, z, tokens, neurons, *rows.stride(), NEURONS, TOKENS
            )
    return z, scale


def gradients(grad: Tensor, z: Tensor, scale: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of y, scale grad, and of the scale's logarithm, the sum over tokens of grad (z - bias)."""
    grads, outputs = (each.reshape(-1, len(scale)) for each in (grad, z))
    tokens, neurons = grads.shape
    columns, steps = triton.cdiv(neurons, NEURONS), triton.cdiv(tokens, TOKENS)
    splits = max(min(steps, PROGRAMS // columns), 1)
    grad_y = grad.new_empty(grad.shape)
    parts = scale.new_zeros(splits, neurons)
    if tokens:
        with torch.cuda.device_of(grad):
            _stretch_gradients[columns, splits](
                *(grads, outputs, scale, bias, grad_y, parts, tokens, neurons, *grads.stride(), *outputs.stride()),
                *(triton.cdiv(steps, splits) * TOKENS, NEURONS, TOKENS),
            )
    return grad_y, parts.sum(0)


@triton.jit
def _stretch(
    y,
    scale,
    bias,
    z,
    tokens,
    neurons,
    stride_token,
    stride_neuron,
    NEURONS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    neuron = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    real = neuron < neurons
    inside = (token < tokens)[:, None] & real[None, :]
    factor = tl.load(scale + neuron, mask=real, other=0.0)
    value = tl.load(y + token[:, None] * stride_token + neuron[None, :] * stride_neuron, mask=inside, other=0.0)
    value = value.to(tl.float32) * factor[None, :]
    if bias is not None:
        kept = tl.load(bias + neuron, mask=real, other=0.0).to(tl.float32)
        value += (kept - kept * factor)[None, :]
    tl.store(z + token[:, None] * neurons + neuron[None, :], value.to(z.dtype.element_ty), mask=inside)


@triton.jit
def _stretch_gradients(
    grad,
    z,
    scale,
    bias,
    grad_y,
    parts,
    tokens,
    neurons,
    stride_grad_token,
    stride_grad_neuron,
    stride_token,
    stride_neuron,
    tokens_of_split,
    NEURONS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    neuron, split = tl.program_id(0) * NEURONS + tl.arange(0, NEURONS), tl.program_id(1)
    real = neuron < neurons
    factor = tl.load(scale + neuron, mask=real, other=0.0)
    total = tl.zeros((NEURONS,), tl.float32)
    for start in range(0, tokens_of_split, TOKENS):
        token = split.to(tl.int64) * tokens_of_split + start + tl.arange(0, TOKENS)
        inside = (token < tokens)[:, None] & real[None, :]
        place = grad + token[:, None] * stride_grad_token + neuron[None, :] * stride_grad_neuron
        grads = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(z + token[:, None] * stride_token + neuron[None, :] * stride_neuron, mask=inside, other=0.0)
        value = value.to(tl.float32)
        if bias is not None:
            value -= tl.load(bias + neuron, mask=real, other=0.0).to(tl.float32)[None, :]
        total += tl.sum(grads * value, 0)
        to = grad_y + token[:, None] * neurons + neuron[None, :]
        tl.store(to, (grads * factor[None, :]).to(grad_y.dtype.element_ty), mask=inside)
    tl.store(parts + split * neurons + neuron, total, mask=real)
