"""From prompts to the file, on a tiny model."""

from __future__ import annotations

import json

import pytest
from datasets import load_dataset
from trl.data_utils import is_conversational

from ropo.core.errors import UserError
from ropo.judging.scores import RuleJudge, function_judge
from ropo.lm.sampling import SamplingSettings, read_prompts
from ropo.pairs import Selection, make_pairs
from ropo.pairs.make import answers_path
from ropo.pairs.selection import TOLERANCE
from ropo.preferences import load_preferences
from tests.tiny.sampled import sampled_batches, tiny_prompts
from tests.tiny.tokenizer import WORDS

SAMPLING = SamplingSettings(samples=6, max_new_tokens=16, seed=2)
TEXTS = tuple(f"{first} {second}" for first in WORDS[:6] for second in WORDS[6:12])
COUNT_A = function_judge("test:count", lambda record, answers: [answer.count("a") for answer in answers])


def make(model, output, scorer=COUNT_A, selection=None, on_batch=lambda batch: None):
    selection = selection or Selection(match_lengths=False)
    return make_pairs(model, tiny_prompts(TEXTS), output, scorer, SAMPLING, selection, 24, on_batch)


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_hold_what_they_need_and_chosen_beats_rejected(model, tmp_path):
    outcome = make(model, tmp_path / "pairs.jsonl")
    records = records_of(tmp_path / "pairs.jsonl")
    assert len(records) == len(outcome.pairs) > 5
    assert len(records) + sum(outcome.dropped.values()) == len(TEXTS)
    for record in records:
        chosen, rejected = (record[name][0]["content"] for name in ("chosen", "rejected"))
        assert [record["score_chosen"], record["score_rejected"]] == [chosen.count("a"), rejected.count("a")]
        assert record["score_chosen"] > record["score_rejected"]
        assert record["prompt"][-1]["role"] == "user"
        assert record["scorer"] == "test:count"
        assert (record["sampling"]["seed"], record["sampling"]["samples"]) == (2, 6)
    loaded = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path))
    assert is_conversational(loaded[0])
    assert len(loaded) == len(records)


def test_pairs_of_any_prompt_are_read_again(model, tmp_path):
    """Whatever stood beside the question is in the turns or carried along, and `ropo train` reads the pairs."""
    beside = {"tools": [{"name": "add"}], "system": "the cat", "why": "a long\nnote"}
    rows = [{"question": text, **beside} for text in TEXTS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    make_pairs(
        *(model, prompts, tmp_path / "pairs.jsonl", COUNT_A, SAMPLING, Selection(match_lengths=False), 24),
        lambda batch: None,
    )
    data = load_preferences(str(tmp_path / "pairs.jsonl"))
    assert len(data) > 5
    assert data.reading.startswith("read as ropo pairs")
    assert [turn["role"] for turn in data.pairs[0]["prompt"]] == ["system", "user"]
    assert json.loads(data.pairs[0]["tools"]) == beside["tools"]
    assert records_of(tmp_path / "pairs.jsonl")[0]["why"] == beside["why"]


def test_the_same_seed_gives_the_same_file(model, tmp_path):
    for name in ("one", "two"):
        make(model, tmp_path / name / "pairs.jsonl")
    assert (tmp_path / "one" / "pairs.jsonl").read_bytes() == (tmp_path / "two" / "pairs.jsonl").read_bytes()


def test_length_matching_holds_and_is_counted(model, tmp_path):
    free = make(model, tmp_path / "free.jsonl")
    matched = make(model, tmp_path / "matched.jsonl", selection=Selection(match_lengths=True))
    records = records_of(tmp_path / "matched.jsonl")
    ratio = sum(record["tokens_chosen"] for record in records) / sum(record["tokens_rejected"] for record in records)
    assert abs(ratio - 1) <= TOLERANCE
    assert 0 < len(records) < len(free.pairs), "the unmatched pairs must differ in length for this test to see it"
    assert matched.dropped["length matching"] == len(free.pairs) - len(records)


def test_a_failing_scorer_loses_nothing_that_was_sampled(model, tmp_path, monkeypatch):
    output, calls = tmp_path / "pairs.jsonl", []

    def failing(record, answers):
        calls.append(record)
        return [float("nan") if len(calls) == 9 else 0.0 for _ in answers]

    with pytest.raises(UserError, match="finite"):
        make(model, output, scorer=function_judge("test:nan", failing))
    assert not output.exists()
    kept = len(records_of(answers_path(output))) - 1
    assert kept == 3, "four prompts a batch: the ninth prompt is in the third"

    sampled = sampled_batches(monkeypatch)
    make(model, output)
    assert sampled == list(range(kept, 9))


def test_missing_instructions_are_found_before_sampling(model, tmp_path):
    with pytest.raises(UserError, match="prompt on line 1: the rule scorer needs"):
        make(model, tmp_path / "pairs.jsonl", scorer=RuleJudge())
    assert list(tmp_path.iterdir()) == []


def test_no_pair_left(model, tmp_path):
    flat = function_judge("test:flat", lambda record, answers: [0.0] * len(answers))
    with pytest.raises(UserError, match=r"no pair is left \(.*no contrast"):
        make(model, tmp_path / "pairs.jsonl", scorer=flat)
    assert not (tmp_path / "pairs.jsonl").exists()
