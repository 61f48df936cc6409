"""Are the kernels right? Forward and backward against float64, beside plain PyTorch; and the adapter on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import ropo
from gpu_parts.machine import device
from gpu_parts.plain import plain_pytorch
from ropo.ops import build_blocks, ropo_rotation, stretch
from ropo.ops.choose import products_for, stretching_for

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDTHS = (4096, 14336, 576, 16384, 2048, 8192, 577, 4095)
FLOOR = 2e-6
"""Relative errors below this are float32's own, whoever adds in which order."""


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the cases: widths of models people have, and odd ones, in every dtype."""
    widths, tokens = ((64, 101), 37) if tiny else (WIDTHS, 1023)
    named: dict[str, Callable[[], dict[str, Any]]] = {"adapter": partial(adapter, tiny)}
    for width, dtype in product(widths, DTYPES):
        named[f"rotate {width} {dtype}"] = partial(rotation, width, DTYPES[dtype], tokens)
    for neurons, dtype in product((widths[0], 1025 if not tiny else 33), DTYPES):
        named[f"stretch {neurons} {dtype}"] = partial(stretching, neurons, DTYPES[dtype], tokens)
    return named


def rotation(width: int, dtype: torch.dtype, tokens: int) -> dict[str, Any]:
    """Compare a rotation's output and gradients, down to angles and vectors, with float64."""
    torch.manual_seed(0)
    x, grad = (torch.randn(tokens, width, device=device()).to(dtype) for _ in range(2))
    parts = torch.randn(2, width - 1, device=device()), torch.randn(2, width, device=device())

    def results(x: Tensor, grad: Tensor, *parts: Tensor) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in (x, *parts)]
        output = build_blocks(width, *leaves[1:]).apply(leaves[0])
        return [output.detach(), *torch.autograd.grad(output, leaves, grad)]

    ours = results(x, grad, *parts)
    used = products_for(x, build_blocks(width, *parts).packed).__name__
    with plain_pytorch():
        plain = results(x, grad, *parts)
        exact = results(*(each.double() for each in (x, grad, *parts)))
    return verdict(("output", "x", "angles", "vectors"), ours, plain, exact, used)


def stretching(neurons: int, dtype: torch.dtype, tokens: int) -> dict[str, Any]:
    """Compare a stretch's output and gradients with float64, a bias kept out of it."""
    torch.manual_seed(0)
    y, grad = (torch.randn(tokens, neurons, device=device()).to(dtype) for _ in range(2))
    log_scale, bias = (torch.randn(neurons, device=device()) for _ in range(2))

    def results(y: Tensor, grad: Tensor, *parts: Tensor) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in (y, *parts[:1])]
        output = stretch(leaves[0], leaves[1], parts[1])
        return [output.detach(), *torch.autograd.grad(output, leaves, grad)]

    given = (y, grad, log_scale, bias.to(dtype))
    ours = results(*given)
    used = stretching_for(y, log_scale).__name__
    with plain_pytorch():
        plain, exact = results(*given), results(*(each.double() for each in given))
    return verdict(("output", "y", "log_scale"), ours, plain, exact, used)


def verdict(
    names: tuple[str, ...], ours: list[Tensor], plain: list[Tensor], exact: list[Tensor], used: str
) -> dict[str, Any]:
    """Say how far ours and plain PyTorch are from float64; ours may be off by twice as much."""
    errors = {
        name: [off(mine, truth), off(theirs, truth)]
        for name, mine, theirs, truth in zip(names, ours, plain, exact, strict=True)
    }
    # Triton's interpreter, on a CPU, cuts float32 off to bfloat16, where a GPU rounds
    factor = 2 if device().type == "cuda" or ours[0].dtype != torch.bfloat16 else 4
    right = all(mine <= max(factor * theirs, FLOOR) for mine, theirs in errors.values())
    kernels = used.startswith("ropo.ops.gpu")
    return {"ok": right and kernels, "by": used, "errors_ours_plain": errors}


def off(found: Tensor, truth: Tensor) -> float:
    """Return a relative error by norms; NaN is never small."""
    return float(f"{float((found.double() - truth).norm() / truth.norm()):.3g}")


def adapter(tiny: bool) -> dict[str, Any]:
    """Adapt a small Llama: the same logits at start, after merging, and gradients as the factors themselves give."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 96} if tiny else {"hidden_size": 1024, "intermediate_size": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**size, **heads, num_hidden_layers=2, vocab_size=256)
    tokens = torch.randint(3, 256, (2, 33), device=device())

    def logits(model: Any) -> Tensor:
        with torch.no_grad():
            return model(input_ids=tokens).logits

    found: dict[str, float] = {}
    for name in ("float32", "bfloat16"):
        base = LlamaForCausalLM(config).to(device(), DTYPES[name]).eval()
        before = logits(base).double()
        model = get_peft_model(base, ropo.RopoConfig())
        found[f"identity {name}"] = off(logits(model), before)
        model = get_peft_model(model.unload(), ropo.RopoConfig(init_weights=False)).eval()
        rotated = logits(model).double()
        found[f"moved {name}"] = off(rotated, before)
        found[f"merge {name}"] = off(logits(model.merge_and_unload()), rotated)
    found["gradients float32"] = _gradients(size["hidden_size"])
    limits = {"float32": 1e-5, "bfloat16": 3e-2}
    right = all(
        value > 0.1 if name.startswith("moved") else value <= limits[name.split()[1]] for name, value in found.items()
    )
    return {"ok": right, "errors": found}


def _gradients(width: int) -> float:
    x, grad = (torch.randn(65, width, device=device()) for _ in range(2))
    parts = torch.randn(2, width - 1, device=device()), torch.randn(2, width, device=device())
    leaves = [each.clone().requires_grad_() for each in (x, *parts)]
    ours = torch.autograd.grad(build_blocks(width, *leaves[1:]).apply(leaves[0]), leaves, grad)
    exact = [each.double().cpu().requires_grad_() for each in (x, *parts)]
    truth = torch.autograd.grad(ropo_rotation(width, *exact[1:]).apply(exact[0]), exact, grad.double().cpu())
    return max(off(mine.cpu(), each) for mine, each in zip(ours, truth, strict=True))
