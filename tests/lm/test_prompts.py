"""Prompt files, good and bad."""

from __future__ import annotations

import gzip
import json

import pytest

from ropo.core.errors import UserError
from ropo.core.once import say
from ropo.lm.prompts import encode_prompts
from ropo.lm.sampling import describe_prompts, read_prompts
from tests.tiny.tokenizer import tiny_tokenizer

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def test_what_the_template_leaves_out_is_said(tmp_path, caplog):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": TURNS[1:2], "tools": [{"name": "add"}]}))
    say.cache_clear()
    encode_prompts(tiny_tokenizer(), read_prompts(path))
    assert caplog.messages == ["prompts: tools of 1 records: left out by the model's chat template"]


def test_a_dialogue_is_turns_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "\n\nHuman: Why?\n\nAssistant:"}))
    assert read_prompts(path)[0].turns == TURNS[3:]
    path.write_text(json.dumps({"prompt": "Be kind. Human: Why?\nHuman: Why?\nAssistant:"}))
    with pytest.raises(UserError, match="prompt on line 1: is marked with Human: and Assistant:"):
        encode_prompts(tiny_tokenizer(), read_prompts(path))
    plain = tiny_tokenizer()
    plain.chat_template = None
    assert len(encode_prompts(plain, read_prompts(path))) == 1


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
    ("record", "turns"),
    [
        ({"instruction": "Sum up.", "input": "A text."}, [{"role": "user", "content": "Sum up.\nA text."}]),
        ({"question": "Why?", "system": "Be brief."}, [TURNS[0], {"role": "user", "content": "Why?"}]),
        ({"query": "Why?", "history": [["Hi", "Hello"]], "system": "Be brief."}, TURNS),
        ({"messages": TURNS}, TURNS),
        ({"prompt": "Why?", "history": [["Hi", "Hello"]], "system_prompt": "Be brief."}, TURNS),
        ({"prompt": "Hi", "messages": [TURNS[1], TURNS[2]], "chosen": [TURNS[2]]}, [TURNS[1]]),
        (
            {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}]},
            TURNS[:2],
        ),
        ({"prompt": [{**TURNS[0], "role": "developer"}, TURNS[1]]}, [{**TURNS[0], "role": "developer"}, TURNS[1]]),
    ],
)
def test_formats_of_prompts(tmp_path, record, turns):
    path = tmp_path / "prompts.jsonl"
    tools, options = [{"name": "add"}], {"enable_thinking": False}
    path.write_text(json.dumps({**record, "tools": tools, "chat_template_kwargs": options, "id": 7, "answer": "x"}))
    (found,) = read_prompts(path)
    assert found.turns == turns
    assert found.rendered == {"prompt": turns, "tools": tools, "chat_template_kwargs": options}
    assert set(found.others) - {"chosen"} == {"id", "answer"}
    read = " + ".join(
        [name for name in found.fields if name in ("prompt", "instruction", "input", "question", "query")]
    )
    assert describe_prompts([found]).startswith(f"prompts read from {read}")
    assert "not read, carried along: " in describe_prompts([found])


@pytest.mark.parametrize(
    ("record", "rendered"),
    [
        ({"prompt": "Hi", "id": 7}, "Hi"),
        ({"instruction": "Go", "input": "on"}, "Go\non"),
        ({"prompt": "Hi", "system": " ", "tools": []}, "Hi"),
        ({"prompt": "Hi", "system": "Be brief."}, TURNS[:2]),
        ({"messages": TURNS}, TURNS),
    ],
)
def test_a_text_stays_one_for_models_without_a_chat_template(tmp_path, record, rendered):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(record))
    assert read_prompts(path)[0].rendered == {"prompt": rendered}


def test_prompts_in_other_files(tmp_path):
    rows = [{"prompt": "Hi", "id": "7"}, {"prompt": "Why?", "id": "8"}]
    (tmp_path / "a.csv").write_text("prompt,id\nHi,7\nWhy?,8\n")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    for name in ("a.csv", "a.json", "a.jsonl.gz"):
        found = read_prompts(tmp_path / name)
        assert [prompt.fields for prompt in found] == rows
    assert describe_prompts(found) == "prompts read from prompt; not read, carried along: 'id'"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "Sum up.", "input": "A text."},
            r"the column 'input' \('A text.' \(str\)\) would be read by nobody",
        ),
        ({"instruction": "Sum up.", "context": "A text."}, "the column 'context' .* would be read by nobody"),
        ({"prompt": "What is this?", "images": ["a.png"]}, "the column 'images' holds .*, but only text"),
        ({"prompt": "Hi", "question": "Why?"}, "both 'prompt' and 'question'"),
        ({"prompt": "Hi", "messages": [{"role": "user", "content": "Why?"}]}, "only the latter says 'Why"),
        ({"messages": [TURNS[1], TURNS[2]]}, "ends with the assistant's turn"),
        ({"promt": "Hi"}, "has no field 'prompt'; rename 'promt'; a prompt is one of prompt, instruction"),
        ({"prompt": "Hi", "tools": 3}, "tools must be a list, not 3"),
        ({"prompt": "Hi", "chat_template_kwargs": {"tokenize": False}}, "must not set 'tokenize'"),
    ],
)
def test_what_would_be_dropped_is_named(tmp_path, record, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"^prompts .*prompts\.jsonl:1: .*{message}"):
        read_prompts(path)


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
    for name in ("none.jsonl", "none"):
        with pytest.raises(UserError, match=f"{name}: no such file"):
            read_prompts(tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no record"):
        read_prompts(tmp_path / "empty.jsonl")
