"""Records from files, folders and the hub: files of every kind hold the same; what is wrong in one is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from ropo.core.errors import UserError
from ropo.preferences import load_preferences
from ropo.preferences.read import read_file, read_records

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


TURNS = [{"role": "user", "content": 'Say "hi",\nplease'}]
cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
LONG = "word " * 40_000  # longer than what Python's csv takes by itself


def table(rows: list[list[str]], separator: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows(rows)
    return file.getvalue().encode()


def fields(path: Path) -> list[dict]:
    return [row.fields for row in read_file("data", path)]


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=4))
def test_every_kind_holds_the_same_records(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("files")
    records = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    contents = {
        "a.jsonl": lines,
        "b.json": lines,
        "c.json": json.dumps(records).encode(),
        "d.csv": table([list(records[0]), *map(list, rows)], ","),
        "e.tsv": table([list(records[0]), *map(list, rows)], "\t"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        assert fields(folder / name) == fields(folder / f"{name}.gz") == records, name


def test_a_table_of_texts(tmp_path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(
        b"\xef\xbb\xbf"
        + table(
            [["", "prompt", "chosen", "rejected"], ["0", json.dumps(TURNS), "", LONG], [], ["1", "b", "c", "d"]], ","
        )
    )
    rows = list(read_file("data", file))
    assert [row.where for row in rows] == [f"{file}:2", f"{file}:4"]
    assert rows[0].fields == {"": "0", "prompt": TURNS, "chosen": "", "rejected": LONG}


def test_pairs_out_of_a_table_of_texts(tmp_path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(table([["", "prompt", "chosen", "rejected", "score_chosen"], ["0", "a", "b", "c", "1.5"]], ","))
    data = load_preferences(str(file), wrap_prompts=False)
    assert data.pairs[:] == {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"], "where": [f"{file}:2"]}
    assert data.reading == "read as TRL (prompt, chosen, rejected); not read, as labels: '', 'score_chosen'"


def test_cells_that_hold_nothing_or_one_message(tmp_path) -> None:
    file = tmp_path / "pairs.csv"
    answers = [json.dumps({"role": "assistant", "content": name}) for name in ("a", "b")]
    cells = [["prompt", "chosen", "rejected", "images", "tools"], [json.dumps(TURNS), *answers, "[]", " null"]]
    file.write_bytes(table([*cells, ["Name a list.", "[]", '{"value": 1}', "[]", "[]"]], ","))
    one, other = (row.fields for row in read_file("data", file))
    assert one["chosen"] == {"role": "assistant", "content": "a"}
    assert one["images"] is one["tools"] is None
    assert (other["chosen"], other["rejected"]) == ("[]", '{"value": 1}')  # answers that are JSON stay texts
    file.write_bytes(table(cells, ","))
    assert load_preferences(str(file)).pairs[0]["rejected"] == [{"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1\n", "a.csv:3: has 1 cells where the header names 2"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv:2: has 3 cells where the header names 2"),
        ("a.csv", b'a,b\n\n1,2\n1,"2"3\n', "a.csv:4: .*put cells that hold quotes in quotes"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv:2: unexpected end of data"),
        ("a.csv", b"a,a\n1,2\n", "a.csv:1: has two columns named 'a'"),
        ("a.csv", b"a,b\n1,\xff\n", "a.csv:.: is not UTF-8"),
        (
            "a.csv",
            b"a\n\"[{'role': 'user', 'content': 'x'}]\"\n",
            "a.csv:2: a looks like messages but is not valid JSON",
        ),
        ("a.jsonl.gz", b"not packed", "a.jsonl.gz: is no whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-4], "a.jsonl.gz: is no whole gzip file"),
        ("a.json.gz", gzip.compress(b"[1]", mtime=0)[:12], "a.json.gz: is no whole gzip file"),
        ("a.tsv.gz", gzip.compress(b"a\tb\n1\n", mtime=0), "a.tsv.gz:2: has 1 cells where the header names 2"),
        ("a.json", b"[1]", "a.json: record 1: is a int, not an object"),
        ("a.csv", b"", "a.csv: holds no record"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^things .*{message}"):
        list(read_file("things", tmp_path / name))


def test_a_header_alone_is_no_record(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(UserError, match=r"a.csv: holds no record"):
        load_preferences(str(tmp_path / "a.csv"))
