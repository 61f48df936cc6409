"""Which output belongs to which prompt."""

from __future__ import annotations

from pathlib import Path

from ropo.evaluation.alpaca_eval.formats import outputs_for, prompts_of


def test_an_instruction_that_stands_twice_takes_its_outputs_in_turn():
    records = [{"instruction": asked, "output": text} for asked, text in (("a", "1"), ("b", "2"), ("a", "3"))]
    prompts = prompts_of(records)
    assert outputs_for(prompts, records, Path("o.json"), "m").texts == ["1", "2", "3"]
    assert outputs_for([*prompts, prompts[0]], records, Path("o.json"), "m").texts == ["1", "2", "3", "3"]
