"""GPTQ bases with gptqmodel's own kernels, on a CPU: forward and training; merging is refused.

gptqmodel wants a torchvision that goes with torch, so it is not among what `make test` installs; docs/limits.md says
how this file is run.
"""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from ropo.core.errors import UserError
from tests.tiny.adapted import PAIRS, layers, logits, relative_difference
from tests.tiny.quantised import save_plain
from tests.tiny.tokenizer import tiny_tokenizer

pytestmark = [
    pytest.mark.skipif(find_spec("gptqmodel") is None, reason="gptqmodel is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

# In a process of its own: models that are loaded after it in the same one give NaN.
QUANTISE = """
import sys, torch, gptqmodel
torch.manual_seed(0)
model = gptqmodel.GPTQModel.load(sys.argv[1], gptqmodel.QuantizeConfig(bits=4, group_size=32), device="cpu")
rows = torch.randint(3, 64, (16, 1, 64))
model.quantize([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows], batch_size=1)
model.save(sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> str:
    """Quantise a tiny model."""
    plain, path = save_plain(tmp_path_factory.mktemp("plain")), str(tmp_path_factory.mktemp("quantised"))
    tiny_tokenizer().save_pretrained(plain)
    command = [sys.executable, "-c", QUANTISE, plain, path]
    subprocess.run(command, check=True, capture_output=True, timeout=240, cwd=path)  # where it leaves logs
    return path


def load(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()
    model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits.square().sum().backward()
    return {name: part.grad for name, part in model.named_parameters() if part.requires_grad}


def test_outputs_and_gradients_are_those_of_the_dequantised_model(folder: str) -> None:
    """Also after an evaluation, at which gptqmodel would pack weights that let no gradient through."""
    models = []
    for dense in (False, True):
        base = load(folder)
        if dense:
            for name, layer in list(base.named_modules()):
                if hasattr(layer, "dequantize_weight"):
                    plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
                    plain.weight.data = layer.dequantize_weight().float().T.contiguous()
                    base.set_submodule(name, plain)
        torch.manual_seed(1)
        models.append(get_peft_model(base, RopoConfig(init_weights=False)).eval())
    quantised, dense_model = models
    assert not isinstance(layers(quantised)[0].get_base_layer(), nn.Linear)
    assert relative_difference(logits(quantised), logits(dense_model)) < 1e-5
    found, expected = gradients(quantised), gradients(dense_model)
    assert len(found) == 12
    assert {part.dtype for part in found.values()} == {torch.float32}
    assert all(relative_difference(found[name], expected[name]) < 1e-4 for name in expected)


def test_trains(folder: str, tmp_path: Any) -> None:
    args = PreferenceConfig(
        str(tmp_path), max_steps=2, learning_rate=1e-2, logging_steps=1, report_to="none", use_cpu=True, bf16=False
    )
    trainer = PreferenceTrainer(
        load(folder), args=args, train_dataset=PAIRS, processing_class=tiny_tokenizer(), peft_config=RopoConfig()
    )
    before = {name: part.detach().clone() for name, part in trainer.model.named_parameters() if part.requires_grad}
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 2
    assert abs(history[0] - math.log(2)) < 1e-4
    after = {name: part for name, part in trainer.model.named_parameters() if part.requires_grad}
    assert len(after) == 12
    assert all((after[name] - before[name]).abs().max() > 1e-3 for name in before)


def test_merging_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match="gptq weights cannot be written; merge into the unquantised base model"):
        get_peft_model(load(folder), RopoConfig()).merge_adapter()


def test_a_packed_model_is_refused(folder: str) -> None:
    base = load(folder).eval()
    logits(base)
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.k_proj has packed its weight .* load the model again"):
        get_peft_model(base, RopoConfig())
