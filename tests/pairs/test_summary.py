"""The figures of a run."""

from __future__ import annotations

from collections import Counter
from io import StringIO

from rich.console import Console

from ropo.lm.sampling import PromptRecord
from ropo.pairs import Pair, ScoredAnswer
from ropo.pairs.summary import summarise, summary_table


def prompt(*names):
    return PromptRecord({"instructions": [{"name": name} for name in names]}, [], 1)


def test_rows_by_hand():
    good, bad = ScoredAnswer("g", 10, True, 1.0), ScoredAnswer("b", 20, True, 0.0)
    cut = ScoredAnswer("c", 30, False, 0.5)
    prompts = [prompt("json"), prompt("json"), prompt("number", "bullets")]
    candidates = {0: [good, bad], 1: [bad, cut], 2: [good, good]}
    rows = {row.kind: row for row in summarise(prompts, candidates, [Pair(0, good, bad)], threshold=1.0)}
    assert list(rows) == ["bullets+number", "json", "all"]
    json = rows["json"]
    assert (json.prompts, json.answers, json.pass_rate, json.finished_rate, json.pairs) == (2, 4, 0.25, 0.75, 1)
    assert (json.chosen_tokens, json.rejected_tokens) == (10, 20)
    assert (rows["bullets+number"].pairs, rows["bullets+number"].chosen_tokens) == (0, None)
    assert (rows["all"].prompts, rows["all"].pass_rate, rows["all"].pairs) == (3, 0.5, 1)

    text = StringIO()
    Console(file=text, width=120).print(summary_table(list(rows.values()), Counter({"no contrast": 2})))
    assert "2 no contrast" in text.getvalue()
    assert "bullets+number" in text.getvalue()
