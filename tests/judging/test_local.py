"""A judge in this process, and the store of its replies."""

from __future__ import annotations

import pytest

from ropo.judging.chat import ChatJudge, Failure, Reply
from ropo.judging.judge import Meter, VerdictStore
from ropo.judging.local import LocalChat
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import SamplingSettings, encode_prompts, load_sampler_model, sample_batches
from tests.tiny.sampled import tiny_prompts


def ask_and_keep(chat, conversations, folder, meter):
    judge = ChatJudge(chat, VerdictStore(folder))
    judge.meter = meter
    return judge._replies(conversations)


def test_a_local_model_answers_greedily_and_what_it_said_is_kept(tmp_path, model, monkeypatch):
    prompts = tiny_prompts()
    settings = SamplingSettings(temperature=0.0, max_new_tokens=6)
    tokenizer = load_tokenizer(model)
    batches = sample_batches(load_sampler_model(model), tokenizer, encode_prompts(tokenizer, prompts), settings, 2)
    wanted = {i: answers[0] for batch in batches for i, answers in zip(batch.prompts, batch.answers, strict=True)}
    chat, meter, conversations = LocalChat(model, 6, 2, 64), Meter(), [prompt.turns for prompt in prompts]
    found = ask_and_keep(chat, conversations, tmp_path, meter)
    said = [answer.text if isinstance(answer, Reply) else "" for answer in found]
    assert said == [wanted[i].text for i in range(len(prompts))]
    assert any(said)
    assert meter.completion_tokens == sum(len(wanted[i].tokens) for i in range(len(prompts)) if said[i])
    assert meter.calls + sum(meter.failures.values()) == len(prompts)

    monkeypatch.setattr("ropo.judging.local.load_sampler_model", pytest.fail)
    answered = [turns for turns, text in zip(conversations, said, strict=True) if text]
    again = Meter()
    ask_and_keep(LocalChat(model, 6, 3, 64), answered, tmp_path, again)
    assert (again.calls, again.kept) == (0, len(answered))
    with pytest.raises(pytest.fail.Exception):
        ask_and_keep(LocalChat(model, 7, 3, 64), answered, tmp_path, Meter())


def test_a_conversation_that_does_not_fit_fails_alone(tmp_path, model):
    long = [{"role": "user", "content": "cat " * 200}]
    meter = Meter()
    found = ask_and_keep(LocalChat(model, 6, 2, 64), [long, tiny_prompts()[1].turns], tmp_path, meter)
    assert found[0] == Failure("longer than the context of 128 tokens")
    assert found[1] != found[0]
    assert meter.failures["longer than the context of 128 tokens"] == 1


def test_a_torn_file_counts_as_none(tmp_path):
    store, asked = VerdictStore(tmp_path), {"judge": "x", "turns": ["é"]}
    store.put(asked, {"text": "é"})
    assert store.get(asked) == {"text": "é"}
    assert store.get({**asked, "judge": "y"}) is None
    (file,) = (file for file in tmp_path.rglob("*") if file.is_file())
    file.write_text(file.read_text()[:20])
    assert store.get(asked) is None


def test_a_kept_reply_of_another_shape_is_asked_again(tmp_path, model):
    chat, turns = LocalChat(model, 6, 2, 64), tiny_prompts()[0].turns
    VerdictStore(tmp_path).put({"judge": chat.identity, "turns": turns}, {"words": "no such field"})
    meter = Meter()
    ask_and_keep(chat, [turns], tmp_path, meter)
    assert (meter.kept, meter.calls + meter.failures.total()) == (0, 1)
