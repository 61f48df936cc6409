"""Packed scores and gradients against the padded computation, architecture by architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GptOssConfig,
    Lfm2Config,
    MambaConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
)
from trl.trainer.utils import add_fused_lm_head

from ropo.lm.packing.attention import PACKED
from ropo.training.packing.fused import enable_packing
from tests.tiny.trained import CONFIGS, SHAPE, tiny_model
from tests.training.packing_helpers import (
    OUTPUTS,
    assert_same,
    edge_cases,
    packs_of,
    padded_batch,
    score,
    scores_and_gradients,
    with_fused_head,
)


def padded_and_packed(name: str):
    padded = with_fused_head(tiny_model(name))
    packed = with_fused_head(copy.deepcopy(tiny_model(name)))
    if getattr(padded.config, "attn_logit_softcapping", None):
        padded.set_attn_implementation("eager")  # transformers 5.6 takes sdpa by default, which leaves the cap out
    assert enable_packing(packed) is None
    return padded, packed


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_padded(name):
    padded, packed = padded_and_packed(name)
    cases = edge_cases()
    assert len(cases) == 11
    for batch in cases.values():
        assert_same(scores_and_gradients(packed, batch, packs_of(batch)), scores_and_gradients(padded, batch))


@pytest.mark.parametrize("name", CONFIGS)
def test_several_packs_equal_one(name):
    padded, packed = padded_and_packed(name)
    batch = edge_cases()["varied"]
    packs = packs_of(batch, budget=20)
    assert len(packs) > 1
    assert_same(scores_and_gradients(packed, batch, packs), scores_and_gradients(padded, batch))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_on_the_pack(reentrant):
    padded, packed = padded_and_packed("mistral")
    for model in (padded, packed):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        model.train()
    batch = edge_cases()["varied"]
    assert packed.model.layers[0].gradient_checkpointing
    assert_same(scores_and_gradients(packed, batch, packs_of(batch)), scores_and_gradients(padded, batch))


def test_adapters_train_on_packs():
    def adapted():
        model = with_fused_head(tiny_model())
        torch.manual_seed(1)
        return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))

    padded, packed = adapted(), adapted()
    assert enable_packing(packed.get_base_model()) is None
    batch = edge_cases()["identical prompts"]
    found, expected = scores_and_gradients(packed, batch, packs_of(batch)), scores_and_gradients(padded, batch)
    assert len(expected[1]) == 8
    assert_same(found, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_packs_the_model_is_unchanged(name):
    """Padded rows, left padding in generation and the cache all go through the replaced attention."""
    padded, packed = padded_and_packed(name)
    batch = edge_cases()["varied"]
    assert_same(scores_and_gradients(packed, batch), scores_and_gradients(padded, batch))
    prompt = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    options = {"attention_mask": (prompt > 0).long(), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert packed.generate(prompt, **options).tolist() == padded.generate(prompt, **options).tolist()


def test_the_backbone_never_sees_padding_and_the_head_sees_answers_only():
    _, packed = padded_and_packed("llama")
    batch = edge_cases()["varied"]
    (pack,) = packs_of(batch)
    seen = []
    packed.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    score(packed, batch, (pack,))
    assert seen == [(1, pack.tokens, SHAPE["hidden_size"])]
    assert pack.tokens < batch["attention_mask"].sum() < batch["input_ids"].numel()
    assert pack.targets.numel() == batch["completion_mask"].sum() < pack.tokens


WINDOW = {"sliding_window": 9, "num_experts_per_tok": 2}  # longer than the trial
UNPACKABLE = {
    "mamba": (
        MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, bos_token_id=1, eos_token_id=2),
        "AttentionInterface",
    ),
    "bloom": (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64), "AttentionInterface"),
    "gpt_oss": (GptOssConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2), "attention sinks"),
    "qwen2_moe": (Qwen2MoeConfig(**SHAPE, num_experts=2, **WINDOW, use_sliding_window=True), "in its masks alone"),
    "phimoe": (PhimoeConfig(**SHAPE, num_local_experts=2, **WINDOW), "in its masks alone"),
    "lfm2": (Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]), "layers other than attention (conv)"),
}


@pytest.mark.parametrize("name", UNPACKABLE)
def test_models_that_cannot_be_packed_say_why_and_stay_as_they_were(name):
    config, reason = UNPACKABLE[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    add_fused_lm_head(model, outputs=OUTPUTS)
    batch = padded_batch([([5, 6, 7], [8, 9], [10, 11])])
    before, attention = score(model, batch).log_probs, model.config._attn_implementation
    assert reason in enable_packing(model)
    assert model.config._attn_implementation == attention != PACKED
    assert torch.equal(score(model, batch).log_probs, before)


def test_an_attention_that_ignores_the_pack_is_found_out(monkeypatch):
    """The trial is what catches architectures that no list names: here one whose positions ignore `position_ids`."""
    model = with_fused_head(tiny_model())
    rotary = model.model.rotary_emb
    forward = rotary.forward
    monkeypatch.setattr(rotary, "forward", lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None]))
    assert "differ" in enable_packing(model)
    assert model.config._attn_implementation != PACKED
