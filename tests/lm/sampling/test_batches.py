"""Batched sampling against a plain loop, one answer at a time."""

from __future__ import annotations

import pytest
import torch

from ropo.core.errors import UserError
from ropo.lm.sampling import (
    PromptRecord,
    SamplingSettings,
    encode_prompts,
    plan_batches,
    prompts_digest,
    sample_batches,
)
from ropo.lm.sampling.batches import draw_uniforms
from ropo.lm.sampling.picking import pick_tokens
from tests.tiny.sampled import tiny_model, tiny_prompts
from tests.tiny.tokenizer import tiny_tokenizer

SETTINGS = SamplingSettings(samples=4, temperature=1.0, top_p=0.9, max_new_tokens=12, seed=3)


def sample(settings, batch_size, done=()):
    tokenizer = tiny_tokenizer()
    encoded = encode_prompts(tokenizer, tiny_prompts())
    batches = list(sample_batches(tiny_model(), tokenizer, encoded, settings, batch_size, done))
    return {prompt: group for batch in batches for prompt, group in zip(batch.prompts, batch.answers, strict=True)}


def plain_loop(model, ids, uniforms, settings):
    """Run the whole sequence through the model for each token, without cache, padding or batch."""
    tokens = []
    for step in range(settings.max_new_tokens):
        logits = model(torch.tensor([ids + tokens])).logits[:, -1, : len(tiny_tokenizer())]
        tokens.append(int(pick_tokens(logits, uniforms[None, step], settings.temperature, settings.top_p)))
        if tokens[-1] == model.config.eos_token_id:
            break
    return tokens


@torch.no_grad()
def test_answers_are_those_of_a_plain_loop():
    model, tokenizer, prompts = tiny_model(), tiny_tokenizer(), tiny_prompts()
    answers = sample(SETTINGS, batch_size=12)
    lengths = set()
    for number, ids in enumerate(encode_prompts(tokenizer, prompts)):
        for uniforms, answer in zip(draw_uniforms([number], SETTINGS), answers[number], strict=True):
            expected = plain_loop(model, ids, uniforms, SETTINGS)
            assert answer.text == tokenizer.decode(expected, skip_special_tokens=True).strip()
            assert (list(answer.tokens), answer.finished) == (expected, expected[-1] == 2)
            lengths.add(len(expected))
    assert len(lengths) >= 4, "the answers must end at different steps for this test to see rows leave"
    assert max(lengths) == SETTINGS.max_new_tokens


def test_greedy_is_that_of_transformers():
    settings = SamplingSettings(samples=1, temperature=0.0, max_new_tokens=12)
    model, tokenizer, prompts = tiny_model(), tiny_tokenizer(), tiny_prompts()
    answers = sample(settings, batch_size=3)
    assert len(answers) == len(prompts)
    unreadable = list(range(len(tokenizer), model.config.vocab_size))
    for number, ids in enumerate(encode_prompts(tokenizer, prompts)):
        output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, suppress_tokens=unreadable)[
            0, len(ids) :
        ]
        assert answers[number][0].text == tokenizer.decode(output, skip_special_tokens=True).strip()


def test_answers_do_not_depend_on_the_batch():
    # float32 rounding could move a random number across a boundary; with this model and seed it does not
    assert sample(SETTINGS, batch_size=4) == sample(SETTINGS, batch_size=28)


def test_seeds_and_samples_differ():
    first, second = sample(SETTINGS, 28), sample(SamplingSettings(4, 1.0, 0.9, 12, seed=4), 28)
    assert sample(SETTINGS, 28) == first
    assert first != second
    assert all(len({answer.text for answer in group}) > 1 for group in first.values())


def test_batches_done_are_skipped_and_the_others_unchanged():
    everything, rest = sample(SETTINGS, 8), sample(SETTINGS, 8, done={0, 2})
    assert 0 < len(rest) < len(everything)
    assert all(everything[prompt] == group for prompt, group in rest.items())


def test_plan_sorts_by_length_and_keeps_everything():
    assert plan_batches([5, 1, 4, 1, 3], 2) == [[1, 3], [4, 2], [0]]


def test_without_a_chat_template_texts_are_continued_and_turns_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    turns = [{"role": "user", "content": "the cat"}]
    assert encode_prompts(tokenizer, [PromptRecord({"prompt": "the cat"}, turns, 1)]) == [
        tokenizer("the cat").input_ids
    ]
    with pytest.raises(UserError, match="no chat template"):
        encode_prompts(tokenizer, [PromptRecord({"prompt": turns}, turns, 1)])


def test_tools_and_options_of_the_template_reach_the_model():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for t in tools %}{{ t['name'] }} {% endfor %}{{ date }} " + tokenizer.chat_template
    options = {"tools": [{"name": "dog"}], "chat_template_kwargs": {"date": "three"}}
    turns = [{"role": "user", "content": "the cat"}]
    (found,) = encode_prompts(tokenizer, [PromptRecord({"prompt": "the cat"}, turns, 1, options)])
    assert found[:2] == tokenizer("dog three").input_ids
    bare = PromptRecord({"prompt": "the cat"}, turns, 1)
    assert prompts_digest([bare]) != prompts_digest([PromptRecord({"prompt": "the cat"}, turns, 1, options)]), (
        "kept answers would be mixed up"
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"samples": 0}, "samples"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"samples": 2, "temperature": 0.0}, "samples"),
    ],
)
def test_settings_out_of_range(change, name):
    with pytest.raises(UserError, match=f"^{name} must"):
        SamplingSettings(**change)
