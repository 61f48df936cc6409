"""Records come back out of the data set as they went in, whatever is done to it."""

from __future__ import annotations

import json
import pickle
from typing import Any

from datasets import Features, Json, List, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer

from ropo.preferences import load_preferences
from ropo.preferences.tables import ExactJson, as_dataset

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
