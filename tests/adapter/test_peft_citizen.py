"""The adapter does all that PEFT and transformers ask of one."""

import copy
import json
import pickle

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ropo import RopoConfig
from ropo.adapter import RopoLinear
from ropo.ops import choose
from tests.tiny.adapted import logits, relative_difference, tiny_gpt2, tiny_llama, tiny_qwen2

MODELS = pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2, tiny_gpt2])


def random_adapter(model, seed: int = 1, **options) -> PeftModel:
    torch.manual_seed(seed)
    return get_peft_model(model, RopoConfig(init_weights=False, **options)).eval()


def ropo_layers(model) -> dict[str, RopoLinear]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, RopoLinear)}
    assert layers
    return layers


@MODELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{"givens": "bidirectional"}, {"givens": "forward"}, {"givens": "none", "reflections": 4}]
)
@pytest.mark.parametrize("kernels", ["chosen", "plain"])
def test_policy_is_the_reference_at_start_to_the_last_bit(make, dtype, options, kernels, monkeypatch) -> None:
    """A rounding error of the first layer would be the loss's first error; in bfloat16 it is one of tenths of nats."""
    if kernels == "plain":
        monkeypatch.setattr(choose, "kernels_on", lambda device, trial: None)
    reference = logits(make().to(dtype))
    assert torch.equal(logits(get_peft_model(make().to(dtype), RopoConfig(**options))), reference)


@MODELS
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_reloaded_logits_are_bit_equal(make, low_cpu_mem_usage, tmp_path) -> None:
    model = random_adapter(make())
    expected = logits(model)
    assert relative_difference(expected, logits(make())) > 1e-3
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(logits(reloaded), expected)
    assert not any(parameter.requires_grad for parameter in reloaded.parameters())


def test_saved_files_hold_the_configuration_and_nothing_but_the_adapter(tmp_path) -> None:
    random_adapter(tiny_llama()).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "ROPO"
    assert saved["target_modules"] == ["q_proj", "v_proj"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 3
    assert all(".ropo_parameters." in name and ".default" not in name for name in tensors)
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, RopoConfig)
    assert config.reflections == 2


def test_transformers_loads_the_adapter_itself(tmp_path) -> None:
    adapted = random_adapter(tiny_llama())
    adapted.save_pretrained(tmp_path / "adapter")
    tiny_llama().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(model), logits(adapted))
    model.disable_adapters()
    assert torch.equal(logits(model), logits(tiny_llama()))


@MODELS
def test_merged_equals_unmerged_and_unmerging_restores_the_weights(make) -> None:
    base, model = make(), random_adapter(make())
    unmerged = logits(model)
    model.merge_adapter(safe_merge=True)
    assert all(layer.merged for layer in ropo_layers(model).values())
    assert relative_difference(logits(model), unmerged) < 1e-4
    model.unmerge_adapter()
    before = base.state_dict()
    compared = 0
    for name, layer in ropo_layers(model.base_model.model).items():
        torch.testing.assert_close(layer.get_base_layer().weight, before[f"{name}.weight"], atol=1e-6, rtol=0)
        compared += 1
    assert compared >= 2
    merged = model.merge_and_unload()
    assert not any(isinstance(module, RopoLinear) for module in merged.modules())
    assert relative_difference(logits(merged), unmerged) < 1e-4


@pytest.mark.parametrize(
    "options", [{"givens": "forward"}, {"givens": "none"}, {"reflections": 0}, {"magnitude": False}]
)
def test_ablations_merge_too(options) -> None:
    model = random_adapter(tiny_qwen2(), **options)
    unmerged = logits(model)
    assert relative_difference(unmerged, logits(tiny_qwen2())) > 1e-3
    assert relative_difference(logits(model.merge_and_unload()), unmerged) < 1e-4


def test_a_merge_transposed_by_mistake_would_be_seen() -> None:
    """A symmetric or single-factor rotation would hide R in the place of R^T; this one is far from both."""
    layer = next(iter(ropo_layers(random_adapter(tiny_llama())).values()))
    rotation = layer.ropo_parameters["default"].rotation().to_dense(torch.float64)
    assert (rotation - rotation.T).norm() > 1


def test_safe_merge_refuses_a_broken_adapter_and_leaves_the_weight() -> None:
    model = random_adapter(tiny_llama())
    name, layer = next(iter(ropo_layers(model).items()))
    before = layer.get_base_layer().weight.clone()
    layer.ropo_parameters["default"].log_magnitude.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.get_base_layer().weight, before), name


def test_disable_adapter_is_the_reference_also_when_merged() -> None:
    reference, model = logits(tiny_llama()), random_adapter(tiny_llama())
    with model.disable_adapter():
        assert torch.equal(logits(model), reference)
    model.merge_adapter()
    with model.disable_adapter():
        assert relative_difference(logits(model), reference) < 1e-5


def test_several_adapters_switch_delete_and_stack_in_the_order_of_activation() -> None:
    model = random_adapter(tiny_llama())
    first = logits(model)
    torch.manual_seed(2)
    model.add_adapter("second", RopoConfig(init_weights=False, givens="forward"))
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    second = logits(model)
    assert relative_difference(second, first) > 1e-3
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".second." in name for name in trainable)

    model.base_model.set_adapter(["default", "second"])
    stacked = logits(model)
    model.base_model.set_adapter(["second", "default"])
    assert relative_difference(logits(model), stacked) > 1e-3, "two rotations do not commute"
    model.base_model.set_adapter(["default", "second"])
    merged = copy.deepcopy(model)
    merged.merge_adapter(adapter_names=["default", "second"])
    assert relative_difference(logits(merged), stacked) < 1e-4
    merged.unmerge_adapter()
    assert relative_difference(logits(merged), stacked) < 1e-4

    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_layers_and_modules_are_chosen_as_in_peft() -> None:
    names = lambda **options: {  # noqa: E731
        name.removeprefix("base_model.model.model.")
        for name in ropo_layers(get_peft_model(tiny_llama(), RopoConfig(**options)))
    }
    assert names() == {f"layers.{i}.self_attn.{p}" for i in (0, 1) for p in ("q_proj", "v_proj")}
    assert names(layers_to_transform=[1]) == {"layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"}
    assert names(layers_to_transform=[0], layers_pattern="layers", target_modules=["k_proj"]) == {
        "layers.0.self_attn.k_proj"
    }
    assert names(exclude_modules=["v_proj"]) == {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}
    assert names(target_modules=r".*\.0\..*(up|down)_proj") == {"layers.0.mlp.up_proj", "layers.0.mlp.down_proj"}
    assert len(names(target_modules="all-linear")) == 2 * 7


def test_modules_to_save_are_trained_and_saved(tmp_path) -> None:
    model = random_adapter(tiny_llama(), modules_to_save=["embed_tokens"])
    model.get_input_embeddings().weight.data.add_(0.5)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()), expected)


def test_status_helpers_show_the_adapter() -> None:
    model = random_adapter(tiny_llama())
    status = model.get_model_status()
    assert status.peft_types == {"default": "ROPO"}
    assert status.enabled is True
    assert status.num_adapter_layers == 4
    assert status.trainable_params == model.get_nb_trainable_parameters()[0] > 0
    assert {layer.module_type for layer in model.get_layer_status()} == {"ropo.RopoLinear"}


def test_copies_and_pickles() -> None:
    model = random_adapter(tiny_llama())
    expected = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), expected)


def test_mixed_batches_are_refused() -> None:
    model = random_adapter(tiny_llama())
    with pytest.raises(ValueError, match="adapter_names"):
        model(input_ids=torch.zeros(2, 3, dtype=torch.long), adapter_names=["default", "default"])


def test_parameters_stay_float32_in_a_bfloat16_model() -> None:
    model = random_adapter(tiny_llama(dtype=torch.bfloat16))
    adapted = [p for name, p in model.named_parameters() if "ropo_" in name]
    assert adapted
    before = [p.clone() for p in adapted]
    model.to(torch.bfloat16)
    after = [p for name, p in model.named_parameters() if "ropo_" in name]
    assert all(p.dtype == torch.float32 and torch.equal(p, old) for p, old in zip(after, before, strict=True))
    assert logits(model).dtype == torch.bfloat16


def test_parameters_narrowed_through_data_are_widened_before_use() -> None:
    """TRL writes `param.data = param.data.to(bfloat16)` on quantised base models."""
    model = random_adapter(tiny_llama())
    for name, parameter in model.named_parameters():
        if "ropo_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    logits(model)
    assert {p.dtype for name, p in model.named_parameters() if "ropo_" in name} == {torch.float32}
