"""The journal survives a kill at any byte."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.lm.sampling import Journal


def fill(path, header, *entries):
    journal = Journal(path, header)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return journal


def test_a_file_cut_at_any_byte_gives_a_beginning_of_the_entries(tmp_path):
    path, header, entries = tmp_path / "deep" / "journal", {"seed": 1}, [{"n": 0}, {"n": 1, "t": "ä\n"}, {"n": 2}]
    fill(path, header, *entries)
    whole = path.read_bytes()
    seen = set()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = list(fill(path, header).entries)
        assert kept == entries[: len(kept)]
        fill(path, header, *entries[len(kept) :])
        assert path.read_bytes() == whole
        seen.add(len(kept))
    assert seen == {0, 1, 2, 3}


def test_another_header_is_refused_and_nothing_lost(tmp_path):
    path = tmp_path / "journal"
    fill(path, {"seed": 1, "model": "m"}, {"n": 0})
    before = path.read_bytes()
    with pytest.raises(UserError, match="was begun with seed 1, now 2"):
        Journal(path, {"seed": 2, "model": "m"})
    assert path.read_bytes() == before
