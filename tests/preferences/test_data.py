"""Preference pairs from records of every format; they come back out of the data set as they went in."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from datasets import Features, Json, List, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer

from ropo.core.errors import UserError
from ropo.preferences.data import ExactJson, as_dataset, collect, count_shared_prompts, load_preferences


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
CHAT = {"prompt": [user("2 + 2 = ?")], "chosen": [assistant("4")], "rejected": [assistant("5")]}


def gather(*records, wrap=False):
    return collect("x", [(f"x:{line}", record) for line, record in enumerate(records, 1)], wrap)


def pair(*records, wrap=False):
    row = gather(*records, wrap=wrap).pairs[0]
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (PLAIN, PLAIN),
        (CHAT, CHAT),
        ({"chosen": "2 + 2 = 4", "rejected": "2 + 2 = 5"}, {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}),
        ({"chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]}, CHAT),
        # a text prompt beside whole conversations, as in UltraFeedback's binarized form
        (
            {
                "prompt": "2 + 2 = ?",
                "chosen": [user("2 + 2 = ?"), assistant("4")],
                "rejected": [user("2 + 2 = ?"), assistant("5")],
            },
            CHAT,
        ),
        ({"prompt": "2 + 2 = ?", "chosen": [assistant("4")], "rejected": [assistant("5")]}, CHAT),
        ({**CHAT, "score_chosen": 9.0, "messages": [assistant("4")]}, CHAT),
    ],
    ids=["plain", "chat", "plain, implicit", "chat, implicit", "ultrafeedback", "text prompt", "extra columns"],
)
def test_formats(record, expected):
    assert pair(record) == expected


def test_only_pairs_that_are_kept_count_as_wrapped():
    assert gather(PLAIN, PLAIN, wrap=True).duplicates == 1
    assert gather(PLAIN, PLAIN, wrap=True).wrapped == 1


def test_a_plain_prompt_becomes_a_user_turn_when_wrapped():
    assert pair(PLAIN, wrap=True) == {
        "prompt": [user("2 + 2 =")],
        "chosen": [assistant(" 4")],
        "rejected": [assistant(" 5")],
    }
    assert gather(PLAIN, wrap=True).wrapped == 1


def test_wrapping_leaves_conversations_and_whole_texts_alone():
    assert pair(CHAT, wrap=True) == CHAT
    assert gather(CHAT, wrap=True).wrapped == 0
    assert isinstance(pair({"chosen": "Human: hi AI: a", "rejected": "Human: hi AI: b"}, wrap=True)["prompt"], str)


def test_conversations_are_split_after_the_shared_turns():
    shared = [{"role": "system", "content": ""}, user("a"), assistant("b"), user("c")]
    ending = [assistant("e"), user("f"), assistant("g")]
    found = gather({"chosen": [*shared, assistant("d")], "rejected": shared + ending}).pairs[0]
    assert found["prompt"] == shared
    assert (found["chosen"], found["rejected"]) == ([assistant("d")], ending)


def test_ties_and_duplicates_are_dropped_and_counted():
    tie = {**PLAIN, "rejected": " 4"}
    other = {**PLAIN, "rejected": " 6"}
    data = gather(PLAIN, tie, {**PLAIN, "score": 1}, other, PLAIN)
    assert (len(data), data.duplicates, data.ties) == (2, 2, 1)
    assert data.pairs["where"][:] == ["x:1", "x:4"]


def test_the_fingerprint_is_of_the_pairs_not_of_the_file():
    other = {**PLAIN, "rejected": " 6"}
    assert gather(PLAIN, other).sha256 == gather({**PLAIN, "score": 1}, other, PLAIN).sha256
    assert gather(PLAIN, other).sha256 != gather(other, PLAIN).sha256  # a seed chooses pairs by their places
    assert gather(PLAIN).sha256 != gather(other).sha256


def test_tools_are_handed_on():
    assert gather({**CHAT, "tools": '[{"name": "add"}]'}).pairs[0]["tools"] == '[{"name": "add"}]'


def test_shared_prompts_are_counted():
    held_out = gather(PLAIN, {**PLAIN, "prompt": "3 + 3 ="})
    assert count_shared_prompts(gather(PLAIN), held_out) == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "x:2: has no field 'rejected'; its fields are prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "reject": "c"}, "x:2: has no field 'rejected'; rename 'reject'"),
        ({**PLAIN, "chosen": ""}, "x:2: chosen is empty"),
        ({**PLAIN, "prompt": "  "}, "x:2: prompt is empty"),
        ({**PLAIN, "prompt": None}, "x:2: prompt must be text or a list of messages, not nothing"),
        ({**PLAIN, "chosen": 3.5}, r"x:2: chosen must be text or a list of messages, not 3.5 \(float\)"),
        ({**CHAT, "chosen": []}, "x:2: chosen is an empty list"),
        ({**CHAT, "chosen": ["4"]}, "x:2: chosen, message 1: must be an object with role and content"),
        ({**CHAT, "chosen": [{"role": "robot", "content": "4"}]}, "x:2: chosen, message 1: the role must be one of"),
        ({**CHAT, "chosen": [{"role": "assistant"}]}, "x:2: chosen, message 1: content must be text, not nothing"),
        ({**CHAT, "rejected": [assistant("")]}, "x:2: rejected, message 1: content is empty"),
        ({**CHAT, "rejected": "5"}, "x:2: one of chosen and rejected is text, the other messages"),
        ({**PLAIN, "prompt": CHAT["prompt"]}, "x:2: prompt is messages but the answers are text"),
        (
            {**CHAT, "chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]},
            "x:2: chosen must start with the assistant's turn; it repeats the prompt",
        ),
        ({**CHAT, "rejected": [user("5")]}, "x:2: rejected must start and end with the assistant's turn"),
        ({"chosen": [assistant("4")], "rejected": [assistant("5")]}, "x:2: chosen and rejected share no turn"),
        (
            {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b"), user("c")]},
            "x:2: one of chosen and rejected is the beginning of the other",
        ),
        ({"chosen": "yes", "rejected": "no"}, "x:2: chosen and rejected share no beginning"),
        (PLAIN, "x:2: is text where x:1 is messages; use one format throughout"),
    ],
)
def test_a_bad_record_is_named(record, message):
    with pytest.raises(UserError, match=f"^data {message}"):
        gather({**CHAT, "prompt": [user("first")]}, record)


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="x: holds no record"):
        gather()
    with pytest.raises(UserError, match="chosen equals rejected in all 2 records"):
        gather({**PLAIN, "rejected": " 4"}, {**CHAT, "rejected": CHAT["chosen"]})


@pytest.mark.parametrize(("name", "pairs", "wrapped"), [("ultrafeedback.test", 183, 183), ("hh_harmless.test", 217, 0)])
def test_real_data(name, pairs, wrapped, shared_data):
    data = load_preferences(str(shared_data / "preferences" / f"{name}.jsonl"))
    assert (len(data), data.duplicates, data.ties, data.wrapped) == (pairs, 0, 0, wrapped)
    assert data.pairs[0]["prompt"][0]["role"] == "user"


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2), max_leaves=5
)
messages = st.fixed_dictionaries({"role": st.just("assistant")}, optional={"content": values, "tool_calls": values})
rows_of_any_kind = st.fixed_dictionaries(
    {"prompt": st.lists(messages, min_size=1, max_size=2), "where": st.just("x:1")},
    optional={"chat_template_kwargs": st.dictionaries(names, values, min_size=1, max_size=2), "tools": st.just("[]")},
)


def without_empty(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value}


@given(st.lists(rows_of_any_kind, min_size=1, max_size=3))
def test_rows_come_back_exactly(rows) -> None:
    """Order and types too, so compared as JSON: 1 is not 1.0, and templates print what comes first first."""
    dataset = as_dataset(rows)
    assert [json.dumps(without_empty(row)) for row in dataset] == [
        json.dumps({name: row[name] for name in dataset.column_names if name in row}) for row in rows
    ]


CALL = {"name": "weather", "arguments": {"lat": 2.517749, "big": 2**70, "text": "5", "nothing": None, "é": [1, 1.0]}}
CALLED = [{"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}]
SAID = [{"role": "assistant", "content": "No."}]
ROWS = [
    {"chosen": CALLED, "chat_template_kwargs": {"enable_thinking": False}},
    {"chosen": SAID, "chat_template_kwargs": {"other": None}},
]


def test_what_is_done_to_it_keeps_it_exact() -> None:
    dataset = as_dataset(ROWS)
    for same in (
        dataset.map(lambda row: {"ids": [1]}),
        dataset.map(lambda row: {"ids": [1]}, num_proc=2),
        dataset.filter(lambda row: True).add_column("number", [1, 2]).map(lambda row: {"ids": [row["number"]]}),
        dataset.select([1, 0]).select([1, 0]),
        pickle.loads(pickle.dumps(dataset)),
        dataset.to_iterable_dataset(),
    ):
        assert [json.dumps({name: row[name] for name in ROWS[0]}) for row in same] == list(map(json.dumps, ROWS))


def test_saved_it_is_what_everybody_can_read(tmp_path) -> None:
    rows = [
        {"chosen": SAID, "k": {"a": 1}},
        {"chosen": [*SAID, {"role": "tool", "content": "x", "name": "y"}], "k": {}},
    ]
    as_dataset(rows).save_to_disk(tmp_path / "saved")
    loaded = load_from_disk(str(tmp_path / "saved"))
    assert loaded.features == Features({"chosen": List(Json()), "k": Json()})
    assert list(loaded) == rows


def test_messages_of_texts_alone_are_a_table_of_texts() -> None:
    assert not any(isinstance(each.feature, ExactJson) for each in as_dataset([{"chosen": SAID}]).features.values())


def test_calls_of_different_functions_train_as_they_are_written(tmp_path) -> None:
    """Through TRL's own preparation, no call gains another's arguments, and no number another digit."""
    pairs = []
    for arguments in ({"city": "Oslo", "lat": 2.517749}, {"x": 1, "y": None}):
        chosen, rejected = ([{"function": {"name": "f", "arguments": each}}] for each in (arguments, {"z": arguments}))
        answers = {
            name: [{"role": "assistant", "tool_calls": calls}]
            for name, calls in (("chosen", chosen), ("rejected", rejected))
        }
        pairs.append({"prompt": [{"role": "user", "content": "the cat"}], **answers})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    seen: list[str] = []

    class Recorder:
        """Stand for a tokenizer: keep what the chat template would be given."""

        eos_token = ""

        def apply_chat_template(self, turns: Any, **options: Any) -> Any:
            seen.append(json.dumps(turns))
            return {"input_ids": [1] * len(turns)}

    trainer = DPOTrainer.__new__(DPOTrainer)  # preparation alone: no model
    trainer._tokenizer = Recorder()
    args = DPOConfig(str(tmp_path / "out"), report_to="none", use_cpu=True)
    trainer._prepare_dataset(load_preferences(str(file)).pairs, Recorder(), args, "train")
    assert set(seen) >= {json.dumps(pair["prompt"] + pair[name]) for pair in pairs for name in ("chosen", "rejected")}
