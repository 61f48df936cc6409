"""Local questions: what is read, and what is refused with its line."""

from __future__ import annotations

import json

import pytest

from ropo.core.errors import UserError
from ropo.evaluation.knowledge.local import query_text, read_task, spaced_continuation

CHOICE = {"query": "Question: which one\n", "choices": ["cat", "dog"], "gold": 1}
CONTEXT = {"context_options": ["the cat", "the dog"], "continuation": "ran fast", "gold": 0}
WORD = {"context": "the cat sat on the", "continuation": "mat"}


def write(file, *records):
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return file


@pytest.mark.parametrize("record", [CHOICE, CONTEXT, WORD])
def test_three_kinds_are_read(tmp_path, record):
    task = read_task(write(tmp_path / "q.jsonl", record, record))
    assert (task.name, task.records) == ("q", [record, record])
    assert task.config["task"] == "local_q"
    assert task.config["num_fewshot"] == 0
    assert list(task.config["custom_dataset"]()["test"]) == task.records
    other = read_task(write(tmp_path / "other.jsonl", record))
    assert task.sha256 != other.sha256


def test_wording():
    assert query_text(CHOICE) == "Question: which one\nAnswer:"
    assert query_text({"query": "the cat sat on"}) == "the cat sat on"
    assert spaced_continuation(WORD) == " mat"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "a"}, "needs query, choices and gold; .* got question; mend the record"),
        ([1], "is a list, not an object"),
        ({**CHOICE, "query": " "}, 'query must be a non-empty text, got " "'),
        ({**CHOICE, "choices": ["cat"]}, "choices must be at least two non-empty texts"),
        ({**CHOICE, "choices": ["cat", ""]}, "choices must be at least two non-empty texts"),
        ({**CHOICE, "gold": 2}, "gold must be a whole number from 0 to 1, got 2"),
        ({**CHOICE, "gold": True}, "gold must be a whole number from 0 to 1, got true"),
        ({**CONTEXT, "continuation": None}, "continuation must be a non-empty text, got null"),
        ({"context": "a"}, "continuation must be a non-empty text"),
        (WORD, "is of kind last word, the first record multiple choice"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(tmp_path, record, message):
    file = write(tmp_path / "q.jsonl", CHOICE, record)
    with pytest.raises(UserError, match=rf"task .*q\.jsonl:2: {message}"):
        read_task(file)


def test_a_bad_file(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl").write_text(json.dumps(CHOICE) + '\n{"query": ')
    for name, message in {
        "no": "no such file",
        "empty": "holds no record",
        "torn": "jsonl:2: is not valid JSON",
    }.items():
        with pytest.raises(UserError, match=message):
            read_task(tmp_path / f"{name}.jsonl")
