"""Quantised base models: float32 adapters on them, trained by our trainer, merged with what that loses said."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from ropo.adapter import RopoLinear
from ropo.core.errors import UserError
from tests.tiny.adapted import PAIRS, layers, logits, relative_difference
from tests.tiny.quantised import LOSS, folder, load, options, pytestmark
from tests.tiny.tokenizer import tiny_tokenizer

__all__ = ["folder", "pytestmark"]  # a fixture, and marks


# Relative error of a weight that is quantised once more: margins over the 0.09 (4 bits) and 0.006 (8 bits) seen here.


kinds = pytest.mark.parametrize("kind", LOSS)


@kinds
def test_trains_in_float32(folder: str, kind: str, tmp_path: Any) -> None:
    """TRL casts what is trained to bfloat16 on quantised bases, which would swallow small steps."""
    args = PreferenceConfig(
        str(tmp_path), max_steps=2, learning_rate=1e-2, logging_steps=1, report_to="none", use_cpu=True, bf16=False
    )
    pairs: Dataset = PAIRS
    trainer = PreferenceTrainer(
        load(folder, kind), args=args, train_dataset=pairs, processing_class=tiny_tokenizer(), peft_config=RopoConfig()
    )
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 2
    # int8 products round the two passes of the same weights differently
    assert abs(history[0] - math.log(2)) < (1e-3 if kind == "bnb 8bit" else 1e-4)
    trained = [part for layer in layers(trainer.model) for part in layer.ropo_parameters.parameters()]
    assert len(trained) == 12
    assert {part.dtype for part in trained} == {torch.float32}
    before = get_peft_model(load(folder, kind), RopoConfig())
    fresh = [part for layer in layers(before) for name, part in layer.named_parameters() if "givens" in name]
    moved = [part for layer in layers(trainer.model) for name, part in layer.named_parameters() if "givens" in name]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(moved, fresh, strict=True))


@kinds
def test_merges_into_the_dequantised_weight_and_says_what_is_lost(folder: str, kind: str) -> None:
    torch.manual_seed(1)
    model = get_peft_model(load(folder, kind), RopoConfig(init_weights=False)).eval()
    rotated = logits(model)
    wanted = {}
    for number, layer in enumerate(layers(model)):
        parameters = layer.ropo_parameters["default"]
        weight = parameters.rotation().apply_transpose(layer.get_base_weight().double())
        wanted[number] = (weight * parameters.scale().double().unsqueeze(1)).detach()
    with pytest.warns(UserWarning, match=rf"merged into {kind} weights: .* off on average, .* at worst"):
        model.merge_adapter(safe_merge=True)
    for number, layer in enumerate(layers(model)):
        error = (layer.get_base_weight().double() - wanted[number]).norm() / wanted[number].norm()
        assert error == pytest.approx(layer.rounding, rel=1e-6)
        assert 1e-4 < error < LOSS[kind]
    merged = logits(model)
    assert relative_difference(merged, rotated) < 5 * LOSS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(logits(model.merge_and_unload()), merged)


@kinds
def test_round_trip(folder: str, kind: str, tmp_path: Any) -> None:
    torch.manual_seed(1)
    model = get_peft_model(load(folder, kind), RopoConfig(init_weights=False)).eval()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(folder, kind), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


def test_what_cannot_be_written_is_not_merged() -> None:
    from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend

    layer = RopoLinear(nn.Linear(4, 4), "default", RopoConfig())
    layer.quantization_backend = ForwardOnlyQuantizationBackend("gptq")
    with pytest.raises(UserError, match="gptq weights cannot be written; merge into the unquantised base model"):
        layer.merge()


@kinds
def test_gradients_flow_after_an_evaluation(folder: str, kind: str) -> None:
    """Before the adapter, and after it: bitsandbytes packs 4-bit weights for the CPU on evaluation."""
    base = load(folder, kind).eval()
    before = logits(base)
    torch.manual_seed(1)
    model = get_peft_model(base, RopoConfig())
    assert relative_difference(logits(model.eval()), before) < 2e-2  # packed products round to bfloat16
    model.train()
    model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits.square().sum().backward()
    first = layers(model)[0].ropo_parameters["default"]
    assert all(part.grad is not None and part.grad.abs().max() > 0 for part in first.parameters())


@pytest.mark.gpu
@kinds
def test_gradients_flow_on_a_gpu(folder: str, kind: str, gpu: torch.device) -> None:
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=options(kind), device_map=str(gpu), dtype=torch.bfloat16
    )
    model = get_peft_model(base, RopoConfig())
    model(input_ids=torch.tensor([[3, 4, 5, 6]], device=gpu)).logits.float().square().sum().backward()
    for layer in layers(model):
        for part in layer.ropo_parameters.parameters():
            assert part.dtype == part.grad.dtype == torch.float32
            assert part.grad.device == gpu
            assert part.grad.isfinite().all()
            assert part.grad.abs().max() > 0


@pytest.mark.gpu
@kinds
def test_trains_packed_on_a_gpu(folder: str, kind: str, gpu: torch.device, tmp_path: Any) -> None:
    """Under bfloat16 autocast, as `ropo train` does there; each angle takes its step in float32."""
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=options(kind), device_map=str(gpu), dtype=torch.bfloat16
    )
    args = PreferenceConfig(
        str(tmp_path), max_steps=3, learning_rate=1e-2, logging_steps=1, report_to="none", use_cpu=gpu.type == "cpu"
    )
    pairs: Dataset = PAIRS
    trainer = PreferenceTrainer(
        base, args=args, train_dataset=pairs, processing_class=tiny_tokenizer(), peft_config=RopoConfig()
    )
    fresh = {name: part.clone() for name, part in trainer.model.named_parameters() if part.requires_grad}
    trainer.train()
    assert trainer._packer.active
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 3
    # bfloat16 keeps 8 bits of log-probs of about -40, of which beta takes a tenth
    assert abs(history[0] - math.log(2)) < 2e-2
    moved = {name: part for name, part in trainer.model.named_parameters() if part.requires_grad}
    assert len(moved) == len(fresh) == 12
    for name, part in moved.items():
        assert part.dtype == torch.float32, name
        assert 0 < (part - fresh[name]).abs().max() < 0.1, name
