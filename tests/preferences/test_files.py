"""Files of every kind hold the same records; what is wrong in one is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropo.core.errors import UserError
from ropo.preferences import load_preferences
from ropo.preferences.files import read_file

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
