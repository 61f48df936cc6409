"""Records from files, folders and the hub."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from ropo.core.errors import UserError
from ropo.preferences.read import read_records

ROWS = [{"prompt": "a", "chosen": "b\u2028b", "rejected": "c"}, {"prompt": "d", "chosen": "e", "rejected": "f"}]


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(source, split="train"):
    return [(each.where, each.fields) for each in read_records(str(source), split)]


def test_json_lines_with_blank_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n" + lines(ROWS), encoding="utf-8")
    assert read(file) == [(f"{file}:2", ROWS[0]), (f"{file}:3", ROWS[1])]


def test_a_json_file_is_an_array_or_lines(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(ROWS))
    assert read(file) == [(f"{file}: record 1", ROWS[0]), (f"{file}: record 2", ROWS[1])]
    file.write_text(lines(ROWS), encoding="utf-8")
    assert [record for _, record in read(file)] == ROWS


def test_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    rows = [{**row, "chosen": [{"role": "assistant", "content": row["chosen"]}]} for row in ROWS]
    Dataset.from_list(rows).to_parquet(file)
    assert read(file) == [(f"{file}: row 1", rows[0]), (f"{file}: row 2", rows[1])]
    file.write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"a.parquet: is not a readable Parquet file"):
        read(file)


def test_what_a_table_adds_is_taken_out_again(tmp_path):
    """A table gives each call the other's arguments, as null; `datasets` keeps them apart only as JSON."""
    calls = [{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "add", "arguments": {"x": 1, "y": None}}]
    rows = [{"chosen": [{"role": "assistant", "tool_calls": [{"function": call}]}]} for call in calls]
    for name, mixed in (("struct", {}), ("json", {"on_mixed_types": "use_json"})):
        table = Dataset.from_list(rows, **mixed)
        table.to_parquet(tmp_path / f"{name}.parquet")
        table.save_to_disk(tmp_path / name)
        # null arguments in a struct are the table's; in JSON they are what was written
        kept = (
            rows
            if mixed
            else [rows[0], {"chosen": [json.loads(json.dumps(rows[1]["chosen"][0]).replace(', "y": null', ""))]}]
        )
        for source in (f"{name}.parquet", name):
            assert [record for _, record in read(tmp_path / source)] == kept


def test_saved_splits_are_named(tmp_path):
    DatasetDict({"train_prefs": Dataset.from_list(ROWS), "train_sft": Dataset.from_list(ROWS)}).save_to_disk(
        tmp_path / "d"
    )
    with pytest.raises(UserError, match="no split 'train', only train_prefs, train_sft; name one"):
        read(tmp_path / "d")
    assert len(read(tmp_path / "d", "train_sft")) == 2


def test_a_folder_of_files_is_read_by_split(tmp_path):
    for name, row in (("x.train.jsonl", ROWS[0]), ("x.test.jsonl", ROWS[1])):
        (tmp_path / name).write_text(lines([row]), encoding="utf-8")
    assert [record for _, record in read(tmp_path)] == [ROWS[0]]
    assert [record for _, record in read(tmp_path, "test")] == [ROWS[1]]
    with pytest.raises(UserError, match=r"no .* file of split 'dev', only x.test.jsonl, x.train.jsonl"):
        read(tmp_path, "dev")


def test_a_folder_without_split_names_is_read_whole(tmp_path):
    for number, row in enumerate(ROWS):
        (tmp_path / f"trained-{number}.jsonl").write_text(lines([row]), encoding="utf-8")
    assert [record for _, record in read(tmp_path)] == ROWS
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder has no"):
        read(tmp_path / "empty")


def test_a_saved_dataset(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_list(ROWS[:1]), "test": Dataset.from_list(ROWS[1:])}).save_to_disk(
        tmp_path / "two"
    )
    assert [record for _, record in read(tmp_path / "one")] == ROWS
    assert [record for _, record in read(tmp_path / "two", "test")] == ROWS[1:]
    with pytest.raises(UserError, match="no split 'dev'"):
        read(tmp_path / "two", "dev")


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        read(tmp_path / "none.jsonl")
    for name in ("a.txt", "a.parquet.gz", "a.gz"):
        (tmp_path / name).write_text("x")
        with pytest.raises(UserError, match=f"{name}: is not a .jsonl, .json, .csv, .tsv, .parquet file"):
            read(tmp_path / name)

    def offline(*arguments, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError, match=r"some/data: is neither a file nor a folder.*\(it .*; its cache on this"):
        read("some/data")


def test_a_hub_dataset(monkeypatch):
    asked = []

    def load(name, split):
        asked.append((name, split))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load)
    assert read("some/data", "test") == [
        ("some/data [test]: row 1", ROWS[0]),
        ("some/data [test]: row 2", ROWS[1]),
    ]
    assert asked == [("some/data", "test")]
