"""Every kind of model gives the answers of a plain loop, whatever batch a prompt is in."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import GenerationConfig

from ropo.core import once
from ropo.core.errors import UserError
from ropo.lm.sampling.batches import draw_uniforms
from ropo.lm.sampling.decoding import Decoder
from ropo.lm.sampling.picking import pick_tokens
from ropo.lm.sampling.settings import SamplingSettings
from tests.tiny.tokenizer import tiny_tokenizer
from tests.tiny.zoo import ALL, ATTENTION, HYBRID, LEARNED, POSITIONS, RECURRENT, make

SETTINGS = SamplingSettings(samples=2, max_new_tokens=8, seed=1)
PROMPTS = [[5, 6, 7, 8, 9], [9, 8], [4, 5, 6, 7, 8, 9, 10, 11, 12], [12, 13]]
READABLE = len(tiny_tokenizer())


@torch.no_grad()
def plain_loop(model, ids, uniforms, steps=SETTINGS.max_new_tokens):
    """Run the whole sequence through the model for each token, without cache, padding or batch."""
    tokens = []
    for step in range(steps):
        logits = model(torch.tensor([ids + tokens]), use_cache=False).logits[:, -1, :READABLE]
        tokens.append(int(pick_tokens(logits, uniforms[None, step], 1.0, 1.0)))
        if tokens[-1] == 2:
            break
    return tokens


@pytest.mark.parametrize("name", ALL)
def test_answers_are_those_of_a_plain_loop_whatever_the_batch(name):
    model = make(name)
    decoder = Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS)
    uniforms = draw_uniforms(range(len(PROMPTS)), SETTINGS)
    together = decoder.decode(range(len(PROMPTS)), uniforms)
    rows = [ids for ids in PROMPTS for _ in range(SETTINGS.samples)]
    assert together == [plain_loop(model, ids, each) for ids, each in zip(rows, uniforms, strict=True)]
    assert len({tuple(row) for row in together}) > len(together) // 2
    alone = decoder.decode([2], uniforms[4:6])
    assert alone == together[4:6]


@pytest.mark.parametrize("name", ALL)
def test_only_what_needs_it_is_left_to_transformers(name):
    decoder = Decoder(make(name), tiny_tokenizer(), PROMPTS, SETTINGS)
    assert decoder._loops == (name in {**ATTENTION, **LEARNED, **HYBRID} and name != "openai")  # it has no cache
    assert decoder._padded == decoder._loops
    assert decoder._batched == (name != "rwkv")  # transformers 5.23 mixes the rows of its state up


def test_the_models_own_generation_settings_change_nothing():
    model = make("mamba")
    uniforms = draw_uniforms([0], SETTINGS)
    plain = Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).decode([0], uniforms)
    odd = GenerationConfig(
        do_sample=True, temperature=0.1, repetition_penalty=5.0, num_beams=2, forced_eos_token_id=7, suppress_tokens=[3]
    )
    model.generation_config = odd
    assert Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).decode([0], uniforms) == plain
    assert model.generation_config is odd
    model.generation_config.eos_token_id = [9, 2]
    assert Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).stops.tolist() == [2, 9]


@pytest.mark.parametrize("name", list(LEARNED))
def test_answers_end_where_positions_do(name, caplog):
    once.say.cache_clear()
    model, settings = make(name), SamplingSettings(samples=1, max_new_tokens=40, seed=1)
    long = [[5] * 20, [6, 7, 8]]
    model.generation_config.eos_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None  # nothing ends an answer but the positions
    uniforms = draw_uniforms([0, 1], settings)
    with caplog.at_level(logging.WARNING, logger="ropo"):
        rows = Decoder(model, tokenizer, long, settings).decode([0, 1], uniforms)
    assert [len(row) for row in rows] == [POSITIONS - 20, POSITIONS - 3]
    (message,) = [each for each in caplog.messages if "positions" in each]
    assert f"has {POSITIONS} positions: 2 of 2 prompts leave fewer than 40" in message
    with pytest.raises(UserError, match=f"prompt 1 of 1: has {POSITIONS} tokens, but .* has {POSITIONS} positions"):
        Decoder(model, tokenizer, [[5] * POSITIONS], settings)


def test_tokens_that_the_tokenizer_cannot_read_are_never_sampled():
    model, settings = make("llama"), SamplingSettings(samples=16, max_new_tokens=16, seed=1)
    with torch.no_grad():
        model.lm_head.weight[READABLE:].mul_(10.0)  # rows that no token stands for
    rows = Decoder(model, tiny_tokenizer(), PROMPTS, settings).decode([0], draw_uniforms([0], settings))
    assert max(token for row in rows for token in row) < READABLE


def test_tokens_without_an_embedding_are_refused():
    model = make("llama")
    model.resize_token_embeddings(10)
    with pytest.raises(UserError, match="has embeddings for 10 tokens, and token 13 of the tokenizer's 22 is not"):
        Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS)
    Decoder(model, tiny_tokenizer(), [[5, 6, 7]], SETTINGS)  # the tokenizer is larger, what is used of it is not


def test_what_transformers_cannot_do_is_one_line(monkeypatch):
    model = make("mamba")

    def broken(*args, **kwargs):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(UserError, match=r"sampling fails in transformers itself \(no kernel for this\)"):
        Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS)


def test_the_zoo_has_every_kind():
    assert min(map(len, (ATTENTION, LEARNED, HYBRID, RECURRENT))) >= 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_put_before_a_prompt_once(name, kind):
    torch.manual_seed(0)
    model = get_peft_model(make(name), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    for weight in model.prompt_encoder.parameters():
        weight.data.mul_(4.0)  # enough to change answers
    uniforms = draw_uniforms(range(len(PROMPTS)), SETTINGS)
    found = Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).decode(range(len(PROMPTS)), uniforms)
    rows = [ids for ids in PROMPTS for _ in range(SETTINGS.samples)]
    assert found == [plain_loop(model, ids, each) for ids, each in zip(rows, uniforms, strict=True)]
    with model.disable_adapter():
        without = Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).decode(range(len(PROMPTS)), uniforms)
        assert without == [plain_loop(model, ids, each) for ids, each in zip(rows, uniforms, strict=True)]
    assert without != found


def test_virtual_tokens_without_a_cache_are_refused():
    model = get_peft_model(make("openai"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with pytest.raises(UserError, match="virtual tokens"):
        Decoder(model, tiny_tokenizer(), PROMPTS, SETTINGS).decode([0], draw_uniforms([0], SETTINGS))
