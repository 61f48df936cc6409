"""Which output belongs to which prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropo.core.errors import UserError
from ropo.evaluation.alpaca_eval.formats import outputs_for, prompts_of
from ropo.lm.prompts import PromptRecord


def test_an_instruction_that_stands_twice_takes_its_outputs_in_turn():
    records = [{"instruction": asked, "output": text} for asked, text in (("a", "1"), ("b", "2"), ("a", "3"))]
    prompts = prompts_of(records)
    assert outputs_for(prompts, records, Path("o.json"), "m").texts == ["1", "2", "3"]
    assert outputs_for(prompts[:2], records, Path("o.json"), "m").texts == ["1", "2"]


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_conversations_that_end_alike_need_an_output_each(outputs):
    turns = [[{"role": "user", "content": text}, {"role": "user", "content": "Go on."}] for text in "abc"]
    prompts = [PromptRecord({}, each, number) for number, each in enumerate(turns, start=1)]
    records = [{"instruction": "Go on.", "output": str(number)} for number in range(outputs)]
    with pytest.raises(UserError, match=rf"one for each of the 3 prompts .* 'Go on\.', got {outputs}; write"):
        outputs_for(prompts, records, Path("o.json"), "m")
    records = [{"instruction": "Go on.", "output": text} for text in ("1", "2", "3")]
    assert outputs_for(prompts, records, Path("o.json"), "m").texts == ["1", "2", "3"]
