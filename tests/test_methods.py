"""The table of methods."""

from __future__ import annotations

import pytest
from peft import get_peft_model

from ropo.core.errors import UserError
from ropo.methods import METHODS, adapter_config, check_target_modules
from tests.tiny.sampled import tiny_model


def test_every_method_is_there():
    assert list(METHODS) == ["ropo", "lora", "oft", "hra", "full"]
    assert all(method.learning_rate > 0 for method in METHODS.values())


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.adapter])
def test_adapters_have_their_defaults_and_adapt_the_same_layers(method):
    config = adapter_config(method, {})
    for name, value in METHODS[method].options.items():
        assert getattr(config, name) == value
    config = adapter_config(method, {"oft_block_size": 8} if method == "oft" else {})
    adapted = get_peft_model(tiny_model(), config)
    layers = {
        name.split(".self_attn.")[1].split(".")[0] for name, each in adapted.named_parameters() if each.requires_grad
    }
    assert layers == {"q_proj", "v_proj"}


def test_options_reach_the_adapter():
    config = adapter_config("ropo", {"reflections": 4, "target_modules": ["o_proj"], "layers_to_transform": [1]})
    assert (config.reflections, set(config.target_modules), config.layers_to_transform) == (4, {"o_proj"}, [1])
    assert not adapter_config("ropo", {}).magnitude
    assert adapter_config("ropo", {"magnitude": True}).magnitude
    assert adapter_config("full", {}) is None
    assert adapter_config("lora", {"use_dora": True}).use_dora


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dora", {}, "method 'dora': must be one of ropo, lora"),
        ("lora", {"givens": "none"}, "givens: is not an option of method 'lora', which has .* r, lora_alpha"),
        ("full", {"r": 8}, "r: is not an option of method 'full', which has no adapter options"),
        ("oft", {"oft_block_size": 0}, "method 'oft': "),
        ("ropo", {"reflections": 3}, "reflections"),
    ],
)
def test_wrong_options(method, options, message):
    with pytest.raises(UserError, match=message):
        adapter_config(method, options)


def test_target_modules_are_looked_up():
    model = tiny_model()
    check_target_modules(model, adapter_config("lora", {"target_modules": ["q_proj", "self_attn.o_proj"]}))
    check_target_modules(model, adapter_config("lora", {"target_modules": ["model.layers.0.mlp.up_proj"]}))
    check_target_modules(model, adapter_config("lora", {}))
    with pytest.raises(UserError, match=r"has no layer 'gate_prj'; did you mean 'gate_proj'"):
        check_target_modules(model, adapter_config("lora", {"target_modules": ["q_proj", "gate_prj"]}))
    with pytest.raises(UserError, match="'lm_head' is the output head"):
        check_target_modules(model, adapter_config("lora", {"target_modules": ["lm_head"]}))
