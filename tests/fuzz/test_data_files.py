"""Whatever stands in a data file, it is read rightly or refused in one line that names the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from ropo.evaluation.alpaca_eval.formats import read_output_records
from ropo.evaluation.knowledge.local import read_task
from ropo.evaluation.mt_bench.questions import read_questions
from ropo.lm.prompts import PromptRecord, read_prompts
from ropo.preferences import PreferenceData, load_preferences
from tests.fuzz import contents
from tests.fuzz.harness import examples, fuzz


def preferences(file: Path) -> PreferenceData:
    return load_preferences(str(file), wrap_prompts=False)


def lines_of(content: bytes) -> dict[str, Any]:
    """Read JSON Lines in the plainest way: the records by the numbers of their lines."""
    lines = enumerate(content.split(b"\n"), start=1)
    return {str(number): json.loads(line.decode("utf-8-sig")) for number, line in lines if line.strip()}


def joined(question: Any, answer: Any) -> Any:
    """Return question and answer as one text or conversation."""
    if isinstance(answer, str):
        return (question or "") + answer
    return [*([{"role": "user", "content": question}] if isinstance(question, str) else question or []), *answer]


def without_nothing(value: Any) -> Any:
    """Return a value without the null fields that a table adds."""
    if isinstance(value, dict):
        return {name: without_nothing(each) for name, each in value.items() if each is not None}
    return [without_nothing(each) for each in value] if isinstance(value, list) else value


def check_pairs(data: PreferenceData, records: dict[str, Any]) -> None:
    """Check that nothing was lost or made up: a record is a pair, a duplicate or a tie; its pair says what it did."""
    assert len(data) > 0
    assert len(data) + data.duplicates + data.ties == len(records)
    for pair in data.pairs:
        record = records[pair["where"].replace(" ", ":").rpartition(":")[2]]
        question = record.get("prompt") or record.get("instruction")
        for name in ("chosen", "rejected"):
            written = joined(question, record[name])
            if isinstance(written, str) and isinstance(pair["prompt"], list):  # tools and the like make turns of texts
                written = joined(question, [{"role": "assistant", "content": record[name]}])
            # a text prompt beside a whole conversation stands in it once more
            repeated = written[1:] if isinstance(written, list) and isinstance(question, str) else None
            assert joined(pair["prompt"], pair[name]) in (written, repeated)
        for name in ("tools", "chat_template_kwargs"):
            given, kept = (
                json.loads(each) if isinstance(each, str) and each.strip() else each or None
                for each in (record.get(name), pair.get(name))
            )
            assert (kept or None) == (given or None)


@examples
def test_json_lines_of_pairs(tmp_path: Path, count: int) -> None:
    def check(data: PreferenceData, content: bytes) -> None:
        check_pairs(data, lines_of(content))

    fuzz(count, contents.damaged(contents.lines), tmp_path / "pairs.jsonl", preferences, check)


@examples
def test_json_arrays_of_pairs(tmp_path: Path, count: int) -> None:
    def check(data: PreferenceData, content: bytes) -> None:
        if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            rows = json.loads(content.decode("utf-8-sig"))
            check_pairs(data, {str(number): row for number, row in enumerate(rows, start=1)})
        else:
            check_pairs(data, lines_of(content))

    fuzz(count, contents.damaged(contents.arrays), tmp_path / "pairs.json", preferences, check)


@examples
@pytest.mark.parametrize(("name", "separator"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_tables_of_texts(tmp_path: Path, count: int, name: str, separator: str) -> None:
    def check(data: PreferenceData, content: bytes) -> None:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=separator))
        assert len(data) + data.duplicates + data.ties == len(rows)
        for pair in data.pairs:
            answer = pair["chosen"] if isinstance(pair["chosen"], str) else pair["chosen"][-1]["content"]
            assert any(answer in row["chosen"] for row in rows)

    fuzz(count, contents.damaged(contents.separated(separator)), tmp_path / name, preferences, check)


@examples
@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.json.gz"])
def test_packed_files(tmp_path: Path, count: int, name: str) -> None:
    packed = contents.lines.map(lambda content: gzip.compress(content, mtime=0))
    fuzz(count, contents.damaged(packed), tmp_path / name, preferences)


@examples
def test_tables_of_pairs(tmp_path: Path, count: int) -> None:
    file = tmp_path / "pairs.parquet"

    def check(data: PreferenceData, content: bytes) -> None:
        rows = without_nothing(pyarrow.parquet.read_table(file).to_pylist())
        check_pairs(data, {str(number): row for number, row in enumerate(rows, start=1)})

    fuzz(count, contents.damaged(contents.tables()), file, preferences, check)


@examples
def test_prompts(tmp_path: Path, count: int) -> None:
    def check(prompts: list[PromptRecord], content: bytes) -> None:
        records = lines_of(content)
        assert [str(prompt.line) for prompt in prompts] == list(records)
        for prompt in prompts:
            record = records[str(prompt.line)]
            assert json.dumps(prompt.fields) == json.dumps(record)  # as text: NaN is not equal to itself
            asked = record.get("prompt") or record.get("instruction")
            assert prompt.turns == ([{"role": "user", "content": asked}] if isinstance(asked, str) else asked)

    fuzz(count, contents.damaged(contents.prompt_lines), tmp_path / "prompts.jsonl", read_prompts, check)


@examples
def test_questions_and_outputs(tmp_path: Path, count: int) -> None:
    """Of the suites: what is read keeps its fields, every record of it."""
    for number, (read, fields) in enumerate(
        [
            (read_questions, {"question_id": 1, "category": "math", "turns": ["the cat", "yes"]}),
            (lambda file: read_task(file).records, {"query": "the cat", "choices": ["a", "b"], "gold": 0}),
            (read_output_records, {"instruction": "the cat", "output": "yes"}),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        inputs = contents.damaged(contents.near(fields, as_array=read is read_output_records))
        fuzz(count // 3, inputs, folder / "questions.jsonl", read, lambda found, content: None)
