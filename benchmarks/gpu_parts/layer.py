"""What an adapter costs one layer: forward and backward of 8,192 tokens in bfloat16, beside the frozen layer alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from adapter_speed import METHODS, layer_in_a_model
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gpu_parts.machine import ceilings, device, interleave, median
from gpu_parts.plain import plain_pytorch
from ropo.ops import build_blocks, stretch

SHAPES = ((4096, 4096), (14336, 4096))


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the cases: a square layer, a wide one, and what rotating and stretching take by themselves."""
    shapes, tokens = (((96, 64),), 64) if tiny else (SHAPES, 8192)
    named: dict[str, Callable[[], dict[str, Any]]] = {}
    for width, neurons in shapes:
        named[f"layer {width} x {neurons}"] = partial(compare, width, neurons, tokens, 2 if tiny else 12)
    for width, _ in shapes:
        named[f"rotation and stretch {width}"] = partial(alone, width, tokens, 2 if tiny else 12)
    return named


def compare(width: int, neurons: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Time every adapter's layer against the frozen one: under autocast, as in training."""
    frozen = nn.Linear(width, neurons, bias=False, device=device(), dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(tokens, width, device=device(), dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(tokens, neurons, device=device(), dtype=torch.bfloat16)
    layers: dict[str, nn.Module] = {"frozen": frozen, "ropo": layer_in_a_model(frozen, width)}
    kin: dict[str, Any] = {name: METHODS[name]() for name in ("lora r=8", "oft block 32", "road")}
    kin["lora r=16"] = LoraConfig(r=16)
    for name, config in kin.items():
        config.target_modules = {"q_proj"}
        layers[name] = get_peft_model(nn.ModuleDict({"q_proj": frozen}), config).base_model.model["q_proj"]
    steps: dict[str, Callable[[], None]] = {name: partial(step, layer, x, grad) for name, layer in layers.items()}

    def plain() -> None:
        with plain_pytorch():
            step(layers["ropo"], x, grad)

    steps["ropo, plain PyTorch"] = plain
    seconds = interleave(steps, rounds, 1 if rounds < 3 else 10)
    times = {name: median(values) for name, values in seconds.items()}
    products = 4 * tokens * width * neurons  # multiplications and additions of the frozen layer, there and back
    return {
        "ms": {name: round(1000 * value, 4) for name, value in times.items()},
        "over_frozen": {name: round(value / times["frozen"], 4) for name, value in times.items()},
        "frozen_tflop_s": round(products / times["frozen"] / 1e12, 2),
        "ropo_tflop_s": round(products / times["ropo"] / 1e12, 2),
        **ceilings(),
    }


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> None:
    """Go forward and backward, and drop the gradients."""
    with torch.autocast(device().type, dtype=torch.bfloat16):
        output = layer(x)
    output.backward(grad)
    x.grad = None
    for parameter in layer.parameters():
        parameter.grad = None


def alone(width: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Time rotating and stretching without the frozen product, and say what share of a copy's bandwidth they reach.

    Bytes are those that cannot be spared: forward reads x and writes the result, backward reads x and the result's
    gradient and writes that of x.
    """
    x, grad = (torch.randn(tokens, width, device=device(), dtype=torch.bfloat16) for _ in range(2))
    x.requires_grad_()
    parts = torch.randn(2, width - 1, device=device()), torch.randn(2, width, device=device())
    packed = build_blocks(width, *parts)
    leaf = packed.packed.detach().requires_grad_()
    log_scale = torch.zeros(width, device=device(), requires_grad=True)

    def rotated() -> None:
        torch.autograd.grad(packed._replace(packed=leaf).apply(x), (x, leaf), grad)

    def stretched() -> None:
        torch.autograd.grad(stretch(x, log_scale, None), (x, log_scale), grad)

    def in_plain_pytorch(function: Callable[[], None]) -> None:
        with plain_pytorch():
            function()

    steps = {"rotate": rotated, "stretch": stretched}
    steps |= {f"{name}, plain PyTorch": partial(in_plain_pytorch, function) for name, function in steps.items()}
    times = {name: median(values) for name, values in interleave(steps, rounds, 1 if rounds < 3 else 10).items()}
    needed = 5 * tokens * width * 2
    return {
        "ms": {name: round(1000 * value, 4) for name, value in times.items()},
        "gb_s": {name: round(needed / value / 1e9, 2) for name, value in times.items()},
        **ceilings(),
    }
