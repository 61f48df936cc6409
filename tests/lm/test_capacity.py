"""Where positions, embeddings and padding end, for every kind of model."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from ropo.core import once
from ropo.core.errors import UserError
from ropo.lm.capacity import cap_length, embedding_rows, fit_sequences, ignores_padding, position_limit, readable_tokens
from ropo.lm.log_probs import answer_log_probs, hidden_states, pair_log_probs
from ropo.lm.tokens import TextWindow, TokenPair
from tests.tiny.tokenizer import tiny_tokenizer
from tests.tiny.zoo import ALL, LEARNED, POSITIONS, VOCABULARY, make


@pytest.mark.parametrize("name", ALL)
def test_the_limit_is_where_a_model_fails(name):
    model, limit = make(name), position_limit(make(name))
    assert limit == (POSITIONS if name in LEARNED else None)
    with torch.no_grad():
        model(torch.full((1, limit or 40), 5), use_cache=False)
        if limit is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, limit + 1), 5), use_cache=False)


def test_an_adapter_changes_no_limit():
    assert (
        position_limit(get_peft_model(make("gpt2"), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)))
        == POSITIONS
    )


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["embed_tokens"]),
        LoraConfig(target_modules=["q_proj"], trainable_token_indices=[5]),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        TrainableTokensConfig(token_indices=[5]),
    ],
    ids=["lora", "tokens beside lora", "saved", "tokens"],
)
def test_tokens_are_counted_under_an_adapter_on_the_embeddings(config):
    assert embedding_rows(get_peft_model(make("llama"), config)) == VOCABULARY


def test_a_width_that_equals_the_positions_is_no_table():
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**shape, vocab_size=64, max_position_embeddings=64)
    assert position_limit(LlamaForCausalLM(config)) is None


@pytest.mark.parametrize("name", ALL)
def test_log_probs_do_not_depend_on_padding(name):
    model = make(name)
    # RWKV's state and RecurrentGemma's convolution take padding for input.
    assert ignores_padding(model) == (name not in ("rwkv", "recurrent_gemma"))
    pairs = [TokenPair([5, 6, 7, 8, 9], [10, 11], [12]), TokenPair([9], [4, 5, 6], [7, 8, 2])]
    found = pair_log_probs(model, pairs)
    for pair, row in zip(pairs, found, strict=True):
        for answer, value in zip((pair.chosen, pair.rejected), row, strict=True):
            ids = torch.tensor([[*pair.prompt, *answer]])
            with torch.no_grad():
                scores = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            expected = scores.gather(1, ids[0, 1:, None])[-len(answer) :].sum()
            assert abs(float(value) - float(expected)) < 1e-4


def test_tokens_that_a_model_does_not_know_are_one_line():
    model = make("gpt2")
    with pytest.raises(UserError, match=f"has embeddings for {VOCABULARY} tokens, and token 40 is not"):
        answer_log_probs(model, [[5]], [[40]])
    with pytest.raises(UserError, match="token 40 is not"):
        hidden_states(model, [TextWindow([5], [40])])


def test_sequences_and_lengths_are_cut_to_the_positions_and_it_is_said(caplog):
    once.say.cache_clear()
    model, long = make("gpt2"), POSITIONS + 10
    prompts, answers = [[5, 6], [5] * long, [5]], [[8] * long, [7], [6]]
    with caplog.at_level(logging.WARNING, logger="ropo"):
        scores = answer_log_probs(model, prompts, answers)
        assert cap_length(model, POSITIONS - 1) == POSITIONS - 1
        assert cap_length(model, None) == cap_length(model, 1024) == POSITIONS
    assert [len(each) for each in scores] == [POSITIONS - 2, 1, 1]
    half = [5] * (POSITIONS // 2)
    assert torch.equal(scores[1], answer_log_probs(model, [[1] * 8, half, [5]], answers)[1])
    assert len(hidden_states(model, [TextWindow([5], [5] * (long - 1))])) == POSITIONS
    assert caplog.messages[0] == (
        f"GPT2LMHeadModel has {POSITIONS} positions: 2 of 3 sequences are longer, and cut to them"
    )
    assert len(caplog.messages) == 4
    assert fit_sequences(make("llama"), prompts, answers) == (prompts, answers)


def test_rows_that_a_tokenizer_can_read():
    model, tokenizer = make("llama"), tiny_tokenizer()
    assert readable_tokens(model, tokenizer) == len(tokenizer) < VOCABULARY
    tokenizer.add_tokens([f"word{at}" for at in range(VOCABULARY - len(tokenizer))])
    assert readable_tokens(model, tokenizer) is None
