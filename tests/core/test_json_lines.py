"""JSON from outside: what is refused, in which words, and what is not."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.core.json_lines import parse_json, read_json, read_json_lines


def test_lines_are_numbered_and_may_hold_odd_separators_and_a_mark(tmp_path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "\xe2\x80\xa8\\ud83d\\ude00"}\n')
    assert list(read_json_lines("x", file)) == [(1, {"a": 1}), (3, {"a": "\u2028😀"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"[1]", "is a list, not an object"),
        (b'{"a": 1, "a": 2}', "has the field 'a' twice"),
        (b'{"a": "\\ud800"}', r"half of a surrogate pair, '\\ud800'"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "more than 64 levels deep"),
        (b'{"a": ' + b"[" * 100_000, "more than 64 levels deep"),
    ],
)
def test_what_is_refused_names_its_line(tmp_path, line, message) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"^things .*x\.jsonl:2: .*{message}"):
        list(read_json_lines("things", file))


def test_whole_files(tmp_path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="no such file"):
        read_json("things", file)
    file.write_bytes(b"[1, 2")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_json("things", file)
    assert parse_json(b"[1, 2]") == [1, 2]
