"""The layout of packs: what is computed once, who sees whom, and where scores go back to."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropo.lm.packing.layout import Segment, gather_keys, pack_batch, segment_mask
from tests.training.packing_helpers import draw, edge_cases, padded_batch

LAYOUT = ("input_ids", "attention_mask", "completion_mask")


def pack(batch: dict, budget: int | None = None):
    return pack_batch(*(batch[name] for name in LAYOUT), budget=budget)


def visible_tokens(pack, position: int, window: int | None = None) -> list[int]:
    """List the tokens that the token at `position` sees, itself last, by the pack's segments."""
    start = 0
    for segment in pack.segments:
        if position < start + segment.length:
            break
        start += segment.length
    keys = [*range(segment.prefix_start, segment.prefix_start + segment.prefix_length)]
    keys += range(start, start + segment.length)
    mask = segment_mask(segment, window, "cpu")
    if mask is None:
        mask = torch.ones(segment.length, segment.length, dtype=torch.bool).tril()
    return [int(pack.input_ids[0, key]) for key, seen in zip(keys, mask[position - start], strict=True) if seen]


def test_layout_of_one_pair_by_hand():
    (packed,) = pack(padded_batch([([5, 6, 7], [8, 9], [10, 11, 12])]))
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 7, 10, 11]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert packed.segments == (Segment(4), Segment(3, prefix_start=0, prefix_length=2))
    assert packed.scored.tolist() == [2, 3, 4, 5, 6]
    assert packed.targets.tolist() == [[8, 9, 10, 11, 12]]
    assert packed.cells.tolist() == [2, 3, 7, 8, 9]  # rows of width 6 - 1


@pytest.mark.parametrize("case", edge_cases())
@pytest.mark.parametrize("window", [None, 1, 4])
def test_every_scored_token_sees_exactly_its_own_past(case, window):
    batch = edge_cases()[case]
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)[:, 1:]
    (packed,) = pack(batch)
    found = {}
    for position, target, cell in zip(
        packed.scored.tolist(), packed.targets[0].tolist(), packed.cells.tolist(), strict=True
    ):
        row, column = divmod(cell, labels.shape[1])
        past = batch["input_ids"][row, : column + 1].tolist()
        assert visible_tokens(packed, position, window) == past[-window:] if window else past
        assert packed.position_ids[0, position] == column
        found[cell] = target
    expected = {cell: label for cell, label in enumerate(labels.flatten().tolist()) if label != -100}
    assert found == expected
    assert expected, "the case scores nothing"


def test_a_prompt_is_computed_once_for_all_its_answers():
    prompt, a, b, c, d = draw(0, 10, 3, 4, 5, 6)
    (packed,) = pack(padded_batch([(prompt, a, b), (prompt, c, d)]))
    assert packed.tokens == 9 + 3 + 4 + 5 + 6


def test_the_budget_cuts_between_prompts_and_loses_nothing():
    batch = edge_cases()["varied"]
    (whole,) = pack(batch)
    packs = pack(batch, budget=20)
    assert len(packs) == 3
    assert sum(part.tokens for part in packs) == whole.tokens
    assert torch.cat([part.cells for part in packs]).tolist() == whole.cells.tolist()
    assert len(pack(batch, budget=whole.tokens)) == 1


def test_a_prompt_with_its_answers_beyond_the_budget_is_a_pack_of_its_own():
    prompt, a, b = draw(0, 10, 3, 4)
    packs = pack(padded_batch([(prompt, a, b), (a, b, prompt)]), budget=5)
    assert [part.tokens for part in packs] == [9 + 3 + 4, 2 + 4 + 10]


def test_a_batch_without_answers_has_no_packs():
    prompt, a, b = draw(0, 10, 3, 4)
    assert pack(padded_batch([(prompt, a, b)], max_length=10)) == ()


def test_masks_with_gaps_score_only_what_they_mark():
    batch = padded_batch([([5, 6], [7, 8, 9], [10, 11])])
    batch["completion_mask"][0, 3] = 0
    (packed,) = pack(batch)
    assert sorted(packed.targets[0].tolist()) == [7, 9, 10, 11]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=5))
@settings(deadline=None)
def test_gathered_keys_are_prefix_then_self(runs):
    segments, start, expected = [], 0, []
    for length, prefix in runs:
        prefix = min(prefix, start)
        segments.append(Segment(length, 0, prefix))
        expected.append([*range(prefix), *range(start, start + length)])
        start += length
    keys = gather_keys(tuple(segments), "cpu")
    bounds = keys.key_ends.tolist()
    assert [keys.index[a:b].tolist() for a, b in pairwise(bounds)] == expected
    assert keys.query_ends[-1] == start
    assert keys.most_keys == max(map(len, expected))
