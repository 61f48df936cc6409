"""What is wrong with an adapter's file is told in one line when it is loaded."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ropo import RopoConfig
from ropo.core.errors import UserError
from ropo.lm.adapters import load_adapter
from ropo.lm.loading import load_policy
from tests.tiny.adapted import tiny_llama

CONFIGS = {"ropo": RopoConfig, "lora": lambda **options: LoraConfig(target_modules=["q_proj", "v_proj"], **options)}


@pytest.fixture(params=CONFIGS)
def adapter(request, tmp_path):
    """A whole adapter with its base model on disk."""
    tiny_llama().save_pretrained(tmp_path / "base")
    model = get_peft_model(tiny_llama(), CONFIGS[request.param](task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder, edit) -> str:
    """Edit the adapter's tensors; return the name of the one that was given to the edit."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    edit(tensors, name)
    save_file(tensors, file)
    return name


def test_a_whole_adapter_loads(adapter):
    assert load_policy(str(adapter)).active_adapters == ["default"]
    trainable = load_adapter(tiny_llama(), str(adapter), trainable=True)
    assert any(each.requires_grad for each in trainable.parameters())


def test_virtual_tokens_cannot_be_trained_further(tmp_path):
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path)
    load_adapter(tiny_llama(), str(tmp_path))
    with pytest.raises(UserError, match=f"^adapter {tmp_path}: PEFT cannot train a PROMPT_TUNING adapter further"):
        load_adapter(tiny_llama(), str(tmp_path), trainable=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(adapter, value):
    def edit(tensors, name):
        tensors[name].view(-1)[-1] = value

    name = change(adapter, edit)
    with pytest.raises(UserError, match=rf"^adapter {adapter}: {name} holds NaN or infinity; train it again") as error:
        load_policy(str(adapter))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("adapter", ["ropo"], indirect=True)
def test_peft_by_itself_refuses_a_rotation_that_is_not_finite(adapter):
    def edit(tensors, name):
        tensors[name].view(-1)[-1] = math.nan

    name = change(adapter, edit)
    with pytest.raises(UserError, match=rf"^adapter {adapter}: {name} holds NaN or infinity; train it again"):
        PeftModel.from_pretrained(tiny_llama(), adapter)
    model = get_peft_model(tiny_llama(), RopoConfig())
    with pytest.raises(UserError, match=rf"^adapter {adapter}: {name} holds"):
        model.load_adapter(adapter, "second", low_cpu_mem_usage=True)
    with pytest.raises(UserError, match=rf"^adapter 'default': {name} holds"):
        set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    assert all(each.isfinite().all() for each in model.parameters() if not each.is_meta)


def test_another_shape(adapter):
    def edit(tensors, name):
        tensors[name] = torch.zeros(*tensors[name].shape[:-1], 7)

    name = change(adapter, edit)
    with pytest.raises(UserError, match=r"does not fit .* \(size mismatch for .*, 7\]|torch.Size\(\[7\]\)") as error:
        load_policy(str(adapter))
    assert name.rpartition(".")[2] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_tensor(adapter):
    def edit(tensors, name):
        del tensors[name]

    change(adapter, edit)
    with pytest.raises(UserError, match=r"does not fit .* \(Found missing adapter keys .*\); copy it anew"):
        load_policy(str(adapter))


def test_a_truncated_file(adapter):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"or is damaged \(.*; copy it anew"):
        load_policy(str(adapter))


def test_an_adapter_of_another_model(adapter, tmp_path):
    shutil.rmtree(tmp_path / "base")
    model = tiny_llama()
    model.config.hidden_size = 24
    type(model)(model.config).save_pretrained(tmp_path / "base")
    with pytest.raises(
        UserError, match=rf"^adapter {adapter}: does not fit {tmp_path}/base or is damaged \(size mismatch"
    ):
        load_policy(str(adapter))
