"""Prompts that fill the sequence."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.lm.tokens import Limits, tokenize_prompt
from ropo.preferences.data import collect
from ropo.runs.inputs import leave_out_long_prompts
from tests.tiny.tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def data(*words: int):
    """Make pairs with prompts of so many words, no two alike."""
    numbers = range(len(words))
    records = [
        {"prompt": " ".join(["cat"] * count), "chosen": f" yes {number}", "rejected": " no"}
        for number, count in zip(numbers, words, strict=True)
    ]
    return collect("x", [(f"x:{line}", record) for line, record in enumerate(records, 1)], wrap_prompts=False)


def test_a_prompt_that_leaves_one_token_is_kept():
    assert len(tokenize_prompt(TOKENIZER, data(5).pairs[0])) == 5
    kept, line = leave_out_long_prompts(data(3, 5), TOKENIZER, Limits(6), skip=False)
    assert (len(kept), line) == (2, None)


def test_a_conversation_counts_its_template():
    record = {"prompt": "cat", "chosen": "yes", "rejected": "no"}
    chat = collect("x", [("x:1", record)], wrap_prompts=True)
    assert len(tokenize_prompt(TOKENIZER, chat.pairs[0])) == 4  # <user> cat <eos> <assistant>


def test_several_are_refused_with_the_length_that_would_do():
    with pytest.raises(UserError, match=r"5 tokens .* in 2 of 3 pairs, first in x:2, .* has 5 tokens; .* above 9"):
        leave_out_long_prompts(data(3, 5, 9), TOKENIZER, Limits(5), skip=False)


def test_one_is_left_out_with_a_line_that_names_it():
    kept, line = leave_out_long_prompts(data(3, 9, 4), TOKENIZER, Limits(5), skip=False)
    assert kept.pairs["where"][:] == ["x:1", "x:3"]
    assert line == "1 left out, whose prompt alone fills max_length 5 (first in x:2, whose prompt has 9 tokens)"


@pytest.mark.parametrize(("long", "refused"), [(2, False), (3, True)])
def test_of_many_pairs_one_in_a_hundred_is_left_out(long, refused):
    lengths = [9] * long + [3] * (200 - long)
    if refused:
        with pytest.raises(UserError, match="in 3 of 200 pairs, first in x:1"):
            leave_out_long_prompts(data(*lengths), TOKENIZER, Limits(5), skip=False)
    else:
        assert len(leave_out_long_prompts(data(*lengths), TOKENIZER, Limits(5), skip=False)[0]) == 198


def test_any_number_is_left_out_when_told_but_not_all():
    kept, line = leave_out_long_prompts(data(5, 3, 9), TOKENIZER, Limits(5), skip=True)
    assert kept.pairs["where"][:] == ["x:2"]
    assert line.startswith("2 left out")
    with pytest.raises(UserError, match="in 2 of 2 pairs"):
        leave_out_long_prompts(data(5, 9), TOKENIZER, Limits(5), skip=True)
    with pytest.raises(UserError, match="in 1 of 1 pairs"):
        leave_out_long_prompts(data(5), TOKENIZER, Limits(5), skip=False)


@pytest.mark.parametrize("limits", [Limits(None), Limits(5, "keep_end")])
def test_where_no_prompt_can_fill_a_sequence_everything_stays(limits):
    kept, line = leave_out_long_prompts(data(5, 900), TOKENIZER, limits, skip=False)
    assert (len(kept), line) == (2, None)
