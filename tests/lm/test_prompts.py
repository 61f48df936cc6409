"""Prompt files, good and bad."""

from __future__ import annotations

import json

import pytest

from ropo.core.errors import UserError
from ropo.lm.sampling import read_prompts

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def test_text_turns_and_alpaca_eval(tmp_path):
    path = tmp_path / "prompts.jsonl"
    records = [{"prompt": "Hi", "id": 7}, {"prompt": TURNS}, {"instruction": "Go", "dataset": "x"}]
    path.write_text("\n\n".join(map(json.dumps, records)), encoding="utf-8")
    found = read_prompts(path)
    assert [prompt.turns for prompt in found] == [
        [{"role": "user", "content": "Hi"}],
        TURNS,
        [{"role": "user", "content": "Go"}],
    ]
    assert [prompt.fields for prompt in found] == records
    assert [prompt.line for prompt in found] == [1, 3, 5]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "Hi"',
        '["Hi"]',
        "{}",
        '{"prompt": 3}',
        '{"prompt": "  "}',
        '{"prompt": []}',
        '{"prompt": [{"role": "user"}]}',
        '{"prompt": [{"role": "robot", "content": "Hi"}]}',
        '{"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}',
    ],
)
def test_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"prompts\.jsonl:3:"):
        read_prompts(path)


def test_missing_and_empty_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no record"):
        read_prompts(tmp_path / "empty.jsonl")
