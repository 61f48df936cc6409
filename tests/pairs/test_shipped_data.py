"""The pairs and prompts in `experiments/verifiable_pairs/full` are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropo.instructions import HELD_OUT_FAMILY, satisfied
from ropo.lm.sampling import read_prompts
from ropo.pairs.selection import TOLERANCE

DATA = Path(__file__).parents[2] / "experiments" / "verifiable_pairs" / "full"


def records_of(name):
    return [json.loads(line) for line in (DATA / f"{name}.pairs.jsonl").read_text(encoding="utf-8").splitlines()]


def meetings_of(records):
    return {(use["name"], record["topic"]) for record in records for use in record["instructions"]}


@pytest.mark.parametrize(("name", "least"), [("train", 1000), ("test", 300)])
def test_chosen_satisfies_rejected_does_not_and_lengths_match(name, least):
    records = records_of(name)
    assert len(records) >= least
    for record in records:
        assert all(satisfied(record["instructions"], record["chosen"][0]["content"]))
        assert not all(satisfied(record["instructions"], record["rejected"][0]["content"]))
    chosen, rejected = (sum(record[f"tokens_{side}"] for record in records) for side in ("chosen", "rejected"))
    assert abs(chosen / rejected - 1) <= TOLERANCE


def test_held_out_prompts_share_no_instruction_and_topic_with_training():
    held_out = [prompt.fields for prompt in read_prompts(DATA / "test.prompts.jsonl")]
    assert len(held_out) >= 300
    assert meetings_of(records_of("train")).isdisjoint(meetings_of(held_out))
    assert meetings_of(records_of("test")) <= meetings_of(held_out)


def test_the_unseen_family_is_unseen():
    family = [prompt.fields for prompt in read_prompts(DATA / "family.prompts.jsonl")]
    assert {use["family"] for record in family for use in record["instructions"]} == {HELD_OUT_FAMILY}
    assert all(use["family"] != HELD_OUT_FAMILY for record in records_of("train") for use in record["instructions"])
