from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from ropo.core.errors import UserError
from ropo.diagnostics.layers import layer_weight, linear_layers, linear_shape, pair_layers, rotations_of
from tests.diagnostics.adapted import CONFIGS, adapted
from tests.tiny.adapted import tiny_gpt2, tiny_llama, tiny_qwen2


def test_adapted_embeddings_are_no_linear_layer() -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj", "embed_tokens"]))
    assert {name.rpartition(".")[2] for name in linear_layers(model)} == {
        name.rpartition(".")[2] for name in linear_layers(tiny_llama())
    }


def test_linear_layers_of_a_plain_model() -> None:
    layers = linear_layers(tiny_llama())
    assert len(layers) == 2 * 7
    assert "lm_head" not in layers
    assert linear_shape(layers["model.layers.0.mlp.gate_proj"]) == (64, 48)


def test_conv1d_is_read_by_neurons() -> None:
    layers = linear_layers(tiny_gpt2())
    assert len(layers) == 2 * 4
    module = layers["transformer.h.0.attn.c_attn"]
    assert linear_shape(module) == (108, 36)
    assert torch.equal(layer_weight(module), module.weight.T)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_of_an_adapted_layer_is_the_merged_one(name: str, dtype: torch.dtype) -> None:
    model = adapted(CONFIGS[name](), tiny_qwen2().to(dtype))  # its projections have biases
    found = {layer: layer_weight(module) for layer, module in linear_layers(model).items()}
    base = {layer: layer_weight(module) for layer, module in linear_layers(tiny_qwen2().to(dtype)).items()}
    merged = linear_layers(model.float().merge_and_unload())
    moved = [layer for layer in found if not torch.equal(found[layer].float(), base[layer].float())]
    assert len(moved) == 4
    for layer in found:
        assert torch.allclose(found[layer].float(), merged[layer].weight, atol=1e-5), layer


@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own
@pytest.mark.parametrize("bits", [4, 8])
def test_weight_of_a_quantised_layer_is_the_dequantised_one(bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: no quantised layer to read")
    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=True)
    kinds = {4: lambda: bnb.nn.Linear4bit(128, 64, quant_type="nf4", compute_dtype=torch.float32), 8: None}
    kinds[8] = lambda: bnb.nn.Linear8bitLt(128, 64, has_fp16_weights=False)
    layer = kinds[bits]()
    layer.load_state_dict(plain.state_dict())
    layer = layer.to("cpu")  # which quantises
    if bits == 4:
        # Some CPUs' kernels pack the weight anew at its first use, and only 32 neurons of 64 inputs at a time.
        expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        found = layer_weight(layer)
        # those kernels compute in bfloat16: weights of up to 0.09 are off by 4e-4
        assert torch.allclose(found, expected, atol=1e-3)
    else:
        found = layer_weight(layer)
        expected = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        # the activations are rounded to eight bits too: one part in 254 of the identity's ones is exact, zeros are
        assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.equal(found, plain.weight)
    assert float((found - plain.weight).abs().max()) < 0.03


class Quantised(nn.Module):
    """Stand in for any quantised layer: whole numbers and a scale, no float weight to read."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.scale = nn.Parameter(plain.weight.abs().amax(dim=1, keepdim=True) / 7, requires_grad=False)
        self.register_buffer("whole", (plain.weight / self.scale).round().to(torch.int8))
        self.register_buffer("bias", plain.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.whole.to(x.dtype) * self.scale).T + self.bias


def test_any_quantised_layer_is_read_by_what_it_does() -> None:
    torch.manual_seed(0)
    layer = Quantised(nn.Linear(12, 5))
    assert linear_shape(layer) == (5, 12)
    assert torch.allclose(layer_weight(layer), layer.whole * layer.scale, atol=1e-6)
    assert layer.whole.dtype == torch.int8


def test_reading_changes_nothing() -> None:
    model = adapted(CONFIGS["ropo"](), tiny_llama(dtype=torch.bfloat16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for module in linear_layers(model).values():
        layer_weight(module)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(value.dtype == after[name].dtype for name, value in before.items())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_autocast_does_not_round_the_weight() -> None:
    module = linear_layers(adapted(CONFIGS["lora"]()))["model.layers.0.self_attn.q_proj"]
    with torch.autocast("cpu", torch.bfloat16):
        found = layer_weight(module)
    assert torch.equal(found, layer_weight(module))


def test_adapter_is_compared_with_its_base_layer_and_plain_with_nothing() -> None:
    pairs = pair_layers(adapted(CONFIGS["lora"]()), None)
    assert len(pairs) == 4
    assert all(torch.equal(layer_weight(pair.reference), pair.module.get_base_layer().weight) for pair in pairs)
    assert [pair.reference for pair in pair_layers(tiny_llama(), None)] == [None] * 14


def test_reference_is_matched_by_name() -> None:
    reference = tiny_llama(seed=1)
    pairs = pair_layers(adapted(CONFIGS["lora"]()), reference)
    assert len(pairs) == 4
    assert pairs[0].reference is reference.model.layers[0].self_attn.q_proj


def test_reference_of_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="q_proj is 40 x 40 where the model's is 48 x 48"):
        pair_layers(tiny_llama(), tiny_qwen2())
    with pytest.raises(UserError, match="q_proj is missing where"):
        pair_layers(tiny_llama(), tiny_gpt2())


def test_model_without_linear_layers_is_refused() -> None:
    config = tiny_llama().config
    config.num_hidden_layers = 0
    with pytest.raises(UserError, match="has no linear layer"):
        pair_layers(LlamaForCausalLM(config), None)


def test_rotations_of_active_adapters() -> None:
    model = adapted(CONFIGS["ropo"]())
    model.add_adapter("other", CONFIGS["ropo"]())
    module = linear_layers(model)["model.layers.0.self_attn.q_proj"]
    [(name, rotation)] = rotations_of(module)
    assert (name, rotation.dim, len(rotation.factors)) == ("default", 48, 3)
    model.set_adapter("other")
    assert [name for name, _ in rotations_of(module)] == ["other"]
    assert list(rotations_of(linear_layers(adapted(CONFIGS["lora"]()))["model.layers.0.self_attn.q_proj"])) == []
    assert list(rotations_of(nn.Linear(3, 3))) == []
