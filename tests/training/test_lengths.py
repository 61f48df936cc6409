"""Prompts that fill the sequence."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.preferences.data import collect
from ropo.training.lengths import leave_out_long_prompts, prompt_length
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def data(*words: int):
    records = [{"prompt": " ".join(["cat"] * count), "chosen": " yes", "rejected": " no"} for count in words]
    return collect("x", [(f"x:{line}", record) for line, record in enumerate(records, 1)], wrap_prompts=False)


def test_a_prompt_that_leaves_one_token_is_kept():
    assert prompt_length(data(5).pairs[0], TOKENIZER) == 5
    kept, cut = leave_out_long_prompts(data(3, 5), TOKENIZER, max_length=6, skip=False)
    assert (len(kept), cut) == (2, 0)


def test_a_conversation_counts_its_template():
    record = {"prompt": "cat", "chosen": "yes", "rejected": "no"}
    chat = collect("x", [("x:1", record)], wrap_prompts=True)
    assert prompt_length(chat.pairs[0], TOKENIZER) == 4  # <user> cat <eos> <assistant>


def test_longer_ones_are_refused_with_the_length_that_would_do():
    with pytest.raises(UserError, match=r"5 tokens .* in 2 of 3 pairs, first in x:2, .* has 5 tokens; .* above 9"):
        leave_out_long_prompts(data(3, 5, 9), TOKENIZER, max_length=5, skip=False)


def test_or_left_out_but_not_all_of_them():
    kept, cut = leave_out_long_prompts(data(5, 3, 9), TOKENIZER, max_length=5, skip=True)
    assert kept.pairs["where"][:] == ["x:2"]
    assert cut == 2
    with pytest.raises(UserError, match="in 2 of 2 pairs"):
        leave_out_long_prompts(data(5, 9), TOKENIZER, max_length=5, skip=True)


def test_without_a_limit_everything_stays():
    kept, cut = leave_out_long_prompts(data(5, 900), TOKENIZER, max_length=None, skip=False)
    assert (len(kept), cut) == (2, 0)
