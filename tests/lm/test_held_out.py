"""Held-out pairs are those that training would train on, counted as it counts them."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset
from peft import LoraConfig

from ropo.core.errors import UserError
from ropo.lm.held_out import read_held_out
from ropo.lm.tokens import Limits, tokenize_pair
from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.tokenizer import merging_tokenizer
from tests.tiny.trained import tiny_model
from tests.training.trainers import LORA

MERGED = {"prompt": "a", "chosen": "bcc", "rejected": "bd"}  # "ab" is one token, so nothing of the prompt is left
PLAIN = {"prompt": "ca", "chosen": "cc", "rejected": "d"}


@pytest.fixture
def tokenizer():
    return merging_tokenizer()


def written(file, *records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def test_a_prompt_that_merges_into_its_answers_is_left_out_as_in_training(tokenizer, tmp_path, caplog):
    assert tokenize_pair(tokenizer, MERGED).prompt == []
    source = written(tmp_path / "pairs.jsonl", MERGED, PLAIN, PLAIN | {"chosen": "ccc"})
    found = read_held_out(source, "test", tokenizer, Limits())
    assert [record["prompt"] for record in found.records] == ["ca", "ca"]
    assert found.counts()["pairs"] == 2
    assert "1 pair left out, whose prompt or an answer has no tokens, as in training" in list(found.notes())
    caplog.set_level(logging.WARNING)
    data = Dataset.from_list([MERGED, PLAIN])
    trainer = PreferenceTrainer(
        tiny_model(),
        args=PreferenceConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    assert len(trainer.train_dataset) == 1
    assert "train data, 1 record(s) (0): the prompt or an answer has no tokens; skipped" in caplog.text


def test_the_first_n_are_counted_past_those_left_out(tokenizer, tmp_path):
    source = written(
        tmp_path / "pairs.jsonl", MERGED, PLAIN, PLAIN, PLAIN | {"chosen": "ccc"}, PLAIN | {"chosen": "dd"}, PLAIN
    )
    found = read_held_out(source, "test", tokenizer, Limits(), most=2)
    assert len(found.records) == 2
    assert found.counts() == {"pairs": 2, "duplicates": 1, "ties": 0}


def test_nothing_but_such_pairs_is_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match="1 of 1 pairs have no tokens of prompt or answer"):
        read_held_out(written(tmp_path / "pairs.jsonl", MERGED), "test", tokenizer, Limits())
