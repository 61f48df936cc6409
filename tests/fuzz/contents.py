"""Contents of data files, most of them wrong somewhere: records, lines, bytes, tables."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st


@st.composite
def mostly(draw: Any, usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
    """Draw the usual three times in four; `one_of` flattens what is nested in it, and weighs all branches alike."""
    return draw(other if draw(st.integers(0, 3)) == 0 else usual)


WORDS = ("the cat", "yes", " no ", "a\nb", "", " ", "\u2028", "\x00", "\ufeff", "\ud800", "é" * 40, "<eos>")
NAMES = ("prompt", "chosen", "rejected", "choosen", "tools", "chat_template_kwargs", "instruction", "score")

texts = st.sampled_from(WORDS) | st.text(st.characters(), max_size=6)
numbers = st.integers() | st.integers(-(2**70), 2**70) | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)

roles = st.sampled_from(("system", "user", "assistant", "tool", "User", "", "human"))
calls = st.lists(st.fixed_dictionaries({"function": values}), max_size=2) | values
messages = st.fixed_dictionaries(
    {"role": roles | values, "content": texts | values}, optional={"tool_calls": calls, "name": values}
)
conversations = st.lists(messages | values, max_size=3)


def turn(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": texts})


good_words = st.sampled_from(("the cat sat", "a dog ran", "yes .", "one two three", "no"))


def good_turn(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": good_words})


good_records = st.fixed_dictionaries({"prompt": good_words, "chosen": good_words, "rejected": good_words}) | (
    st.fixed_dictionaries(
        {
            "prompt": st.tuples(good_turn("user")).map(list),
            "chosen": st.tuples(good_turn("assistant")).map(list),
            "rejected": st.tuples(good_turn("assistant")).map(list),
        }
    )
)
near_answers = st.tuples(turn("assistant")).map(list) | st.tuples(turn("user"), turn("assistant")).map(list)
answers = texts | near_answers | conversations | values
fields = {name: answers if name in ("prompt", "chosen", "rejected", "instruction") else values for name in NAMES}
records = (
    st.fixed_dictionaries({"prompt": answers, "chosen": answers, "rejected": answers}, optional={"tools": values})
    | st.fixed_dictionaries({}, optional=fields)
    | st.builds(lambda record, extra: {**record, **extra}, good_records, st.fixed_dictionaries({}, optional=fields))
)
objects = mostly(
    st.lists(good_records, min_size=1, max_size=4) | st.lists(mostly(good_records, records), min_size=1, max_size=3),
    st.lists(records | values, max_size=4),
)


def as_lines(rows: list[Any], ascii_only: bool = True, separator: str = "\n") -> bytes:
    text = separator.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    return (text + separator).encode("utf-8", "surrogatepass")


separators = mostly(st.just("\n"), st.sampled_from(("\r\n", "\n\n", "\r", " ", "")))
deep = st.integers(10, 100_000).map(lambda depth: b'{"prompt": ' + b"[" * depth)
closed = st.integers(10, 900).map(lambda depth: b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}")
long_number = st.integers(1, 20_000).map(lambda digits: b'{"prompt": ' + b"9" * digits + b"}\n")
twice = st.just(b'{"prompt": "the cat", "chosen": "yes", "chosen": "no", "rejected": "no"}\n')
odd = deep | closed | long_number | twice | st.binary(max_size=40)
arrays = objects.map(lambda rows: json.dumps(rows, indent=1).encode())
written = st.builds(as_lines, objects, st.booleans(), separators)
lines = mostly(written, arrays | odd)
prompts = st.lists(st.fixed_dictionaries({"prompt": good_words | texts}, optional={"score": values}), max_size=3)
prompt_lines = mostly(st.builds(as_lines, prompts, st.booleans(), separators), lines)


@st.composite
def separated(draw: Any, separator: str) -> bytes:
    """Write a table of texts whose header or rows may be wrong."""
    names = draw(mostly(st.just(["prompt", "chosen", "rejected"]), st.lists(st.sampled_from(NAMES), max_size=4)))
    cells = mostly(
        good_words, texts | st.sampled_from(('"', 'a "b', "1,2", "3\t4", '[{"role": "user", "content": "x"}]'))
    )
    width = mostly(st.just(len(names)), st.integers(0, 5))
    rows = [[draw(cells) for _ in range(draw(width))] for _ in range(draw(st.integers(0, 3)))]
    file = io.StringIO(newline="")
    quoting = draw(mostly(st.just(csv.QUOTE_MINIMAL), st.just(csv.QUOTE_NONE)))
    # A row of one empty cell cannot be told from an empty line without quotes, and `csv` refuses to write it.
    written = [row for row in (names, *rows) if row != [""] or quoting == csv.QUOTE_MINIMAL]
    csv.writer(file, delimiter=separator, quoting=quoting, escapechar="\\").writerows(written)
    return file.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def near(draw: Any, record: dict[str, Any], as_array: bool) -> bytes:
    """Write copies of a good record with a field dropped or replaced here and there."""
    rows = []
    for _ in range(draw(st.integers(0, 2))):
        fields = dict(record)
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(record)))
            fields[name] = draw(values | st.lists(values, max_size=3))
            if draw(st.booleans()):
                del fields[name]
        rows.append(fields)
    return json.dumps(rows).encode() if as_array else as_lines(rows)


@st.composite
def damaged(draw: Any, contents: st.SearchStrategy[bytes]) -> bytes:
    """Cut, flip, insert, repeat or recode."""
    content = draw(contents)
    kind = draw(
        mostly(st.just("whole"), st.sampled_from(("cut", "flip", "insert", "repeat", "mark", "utf-16", "latin-1")))
    )
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:place]
    if kind == "flip" and content:
        return content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]
    if kind == "insert":
        return content[:place] + draw(st.binary(max_size=4)) + content[place:]
    if kind == "repeat":
        return content[:place] + content[place // 2 :]
    if kind == "mark":
        return b"\xef\xbb\xbf" + content
    if kind in ("utf-16", "latin-1"):
        return content.decode("utf-8", "replace").encode(kind, "replace")
    return content


moments = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
MESSAGE = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
good_lists = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(("user", "assistant")), "content": good_words}), max_size=2
)
KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pyarrow.string(), good_words),
    (pyarrow.large_string(), good_words),
    (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), good_words),
    (pyarrow.list_(MESSAGE), good_lists),
    (pyarrow.list_(pyarrow.string()), st.lists(good_words, max_size=2)),
    (pyarrow.binary(), st.binary(max_size=4)),
    (pyarrow.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.float32(), st.floats(width=32)),
    (pyarrow.bool_(), st.booleans()),
    (pyarrow.date32(), moments.map(lambda moment: moment.date())),
    (pyarrow.timestamp("ns"), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.timestamp("us", "UTC"), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.duration("ns"), st.integers(-(2**60), 2**60)),
    (pyarrow.decimal128(20, 3), st.decimals(-1000, 1000, places=3).map(decimal.Decimal)),
    (
        pyarrow.map_(pyarrow.string(), pyarrow.string()),
        st.lists(st.tuples(st.uuids().map(str), good_words), max_size=2),
    ),
    (pyarrow.struct([("content", pyarrow.string())]), st.fixed_dictionaries({"content": good_words})),
    (pyarrow.null(), st.none()),
]


@st.composite
def tables(draw: Any) -> bytes:
    """Write a Parquet file whose columns are of any type."""
    rows, usual = draw(st.integers(0, 4)), draw(mostly(st.just(KINDS[0]), st.just(KINDS[3])))
    odd_names = st.lists(st.sampled_from(NAMES), max_size=4)
    columns, names = [], draw(mostly(st.just(["prompt", "chosen", "rejected"]), odd_names))
    for _ in names:
        kind, entries = draw(mostly(st.just(usual), st.sampled_from(KINDS)))
        entry = st.none() | entries if draw(st.integers(0, 5)) == 0 else entries
        columns.append(pyarrow.array([draw(entry) for _ in range(rows)], kind))
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, names=names), file)
    return file.getvalue()
