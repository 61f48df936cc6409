"""The adapter on a GPU: the reference at start, exact gradients and merges, kernels that are trusted."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from peft import get_peft_model

from ropo import RopoConfig
from ropo.adapter import RopoLinear
from ropo.ops import build_blocks
from ropo.ops.choose import kernels_on, try_rotation, try_stretch
from tests.tiny.adapted import logits, relative_difference, tiny_llama, tiny_qwen2

pytestmark = pytest.mark.gpu


def test_kernels_for_gpus_are_trusted(gpu):
    """Without a warning: they have reproduced plain PyTorch on this device."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for trial in (try_rotation, try_stretch):
            assert kernels_on(gpu, trial) in (("gpu",) if gpu.type == "cuda" else ("cpu", None))


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_starts_at_the_reference_moves_and_merges(gpu, make):
    base = make().to(gpu)
    before = on(gpu, base)
    model = get_peft_model(base, RopoConfig())
    assert relative_difference(on(gpu, model), before) < 1e-5
    model = get_peft_model(model.unload(), RopoConfig(init_weights=False)).eval()
    rotated = on(gpu, model)
    assert relative_difference(rotated, before) > 1e-2
    assert relative_difference(on(gpu, model.merge_and_unload()), rotated) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_cpu_in_float64(gpu, checkpointing):
    model = get_peft_model(tiny_llama(), RopoConfig(init_weights=False))
    exact = copy.deepcopy(model).double()
    for layer in (module for module in exact.modules() if isinstance(module, RopoLinear)):
        layer.ropo_parameters.double()
    model.to(gpu).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.randint(3, 60, (2, 17))
    for each, device in ((model, gpu), (exact, "cpu")):
        each(input_ids=tokens.to(device)).logits.square().sum().backward()
    compared = 0
    truth = dict(exact.named_parameters())
    for name, part in model.named_parameters():
        if part.requires_grad:
            assert part.grad.dtype == torch.float32
            assert relative_difference(part.grad.cpu().double(), truth[name].grad.double()) < 1e-4, name
            compared += 1
    assert compared == 12


@pytest.mark.parametrize("width", [4096, 577])
def test_a_rotation_in_bfloat16_is_rounded_once(gpu, width):
    """Half a unit of the last of 8 bits at most, so about a quarter on average: 2^-9."""
    x = torch.randn(65, width, device=gpu).bfloat16()
    parts = torch.randn(2, width - 1, device=gpu), torch.randn(2, width, device=gpu)
    found = build_blocks(width, *parts).apply(x)
    exact = build_blocks(width, *(part.double() for part in parts)).apply(x.double())
    assert found.dtype == torch.bfloat16
    assert relative_difference(found.double(), exact) < 2**-8


def on(device: torch.device, model) -> torch.Tensor:
    model.eval()
    return logits(model.to(device)).cpu() if device.type == "cpu" else _logits_on(device, model)


def _logits_on(device: torch.device, model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 4, 5, 6, 7, 8]], device=device)).logits.cpu()
