"""What is refused where FSDP or DeepSpeed has the weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.sharding import check_deepspeed, check_sharding, is_cut
from ropo.training.finite import is_finite
from tests.tiny.trained import tiny_model


def options(stage: int | None = None, gathers: bool = True, **changes) -> PreferenceConfig:
    """Configure training with a stand-in for DeepSpeed's plugin, which wants DeepSpeed installed."""
    config = PreferenceConfig("unused", use_cpu=True, bf16=False)
    if stage is not None:
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": gathers}
        config.deepspeed_plugin = SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": zero})
    for name, value in changes.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("stage", "fsdp", "changes", "message"),
    [
        (3, False, {"tokens_per_step": 8}, "tokens_per_step: processes that cut their batches"),
        (None, True, {"tokens_per_step": 8}, "tokens_per_step: processes that cut their batches"),
    ],
)
def test_what_waits_for_ever_is_refused(stage, fsdp, changes, message):
    with pytest.raises(UserError, match=message):
        check_sharding(options(stage, **changes), fsdp, stage is not None)


def test_deepspeed_that_accelerate_leaves_out_is_told():
    with pytest.raises(UserError, match="use_cpu: accelerate leaves DeepSpeed out with it"):
        check_sharding(options(2), fsdp=False, deepspeed=False)


def test_the_rest_is_let_through():
    check_sharding(options(2, tokens_per_step=8), fsdp=False, deepspeed=True)
    check_sharding(options(), fsdp=True, deepspeed=False)
    check_sharding(options(tokens_per_step=8, precompute_ref_log_probs=True), fsdp=False, deepspeed=False)
    check_deepspeed(tiny_model(), options(3, bf16=True))
    check_deepspeed(get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])), options(3, gathers=False))


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_adapters_are_not_rounded(kind):
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match=f"{kind}: DeepSpeed would round the adapter"):
        check_deepspeed(adapted, options(2, **{kind: True}))


def test_weights_that_could_not_be_saved_are_not_trained():
    with pytest.raises(UserError, match="stage3_gather_16bit_weights_on_model_save: must be true"):
        check_deepspeed(tiny_model(), options(3, gathers=False))


def test_bf16_is_off_by_default_under_deepspeed(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    made = []

    def remember(self):
        made.append(self.bf16)
        raise InterruptedError

    monkeypatch.setattr("trl.DPOConfig.__post_init__", remember)
    for flag in ("false", "true"):
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", flag)
        with pytest.raises(InterruptedError):
            PreferenceConfig(str(tmp_path))
    assert made == [True, False]


def test_what_is_cut_is_looked_at():
    """ZeRO-3 leaves a parameter empty and keeps this process's part beside it."""
    layer = nn.Linear(2, 2, bias=False)
    assert not is_cut(layer)
    layer.weight.ds_id, layer.weight.ds_tensor = 0, torch.tensor([1.0, math.nan])
    layer.weight.data = torch.empty(0)
    assert is_cut(layer)
    assert not is_finite([layer.weight], "data")
    layer.weight.ds_tensor = torch.ones(2)
    assert is_finite([layer.weight], "data")
