"""Every pair once an epoch, and the same work for every process."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as some

from ropo.core.errors import UserError
from ropo.lm.packing.layout import pack_batch
from ropo.lm.tokens import Limits
from ropo.training.distributed.dealing import (
    DealtBatches,
    batch_sizes,
    deal,
    gathering_unequal,
    packed_tokens,
)
from tests.training.packing_helpers import draw, padded_batch
from tests.training.together import run_together


def imbalance(shares, tokens) -> float:
    """Return how much more the busiest process computes than the mean: 1 where all compute the same."""
    work = [sum(tokens[index] for index in share) for share in shares]
    return max(work) * len(work) / sum(work)


@given(pairs=some.integers(1, 200), share=some.integers(1, 8), processes=some.integers(1, 8), seed=some.integers(0, 9))
def test_every_pair_is_dealt_once_to_a_process_that_has_work_in_every_batch(pairs, share, processes, seed):
    tokens = random.Random(seed).choices(range(2, 500), k=pairs)
    if pairs < processes:
        with pytest.raises(UserError, match=rf"^data: {pairs} pairs are too few for {processes} processes"):
            DealtBatches(range(pairs), tokens, share, processes, 0, False)
        return
    of_each = [list(DealtBatches(range(pairs), tokens, share, processes, rank, False)) for rank in range(processes)]
    assert len({len(batches) for batches in of_each}) == 1
    assert sorted(index for batches in of_each for batch in batches for index in batch) == list(range(pairs))
    for together in zip(*of_each, strict=True):
        assert all(together)
        dealt = sorted(index for batch in together for index in batch)
        assert dealt == list(range(dealt[0], dealt[-1] + 1))  # what one process would have had at once
        assert all(batch == sorted(batch) for batch in together)
    assert all(len(batch) <= share for batches in of_each for batch in batches[:-1])


def deal_an_order_of_its_own(pairs: int) -> list[list[int]]:
    rank = PartialState(cpu=True).process_index
    order = list(range(pairs)) if rank == 0 else list(reversed(range(pairs)))
    return list(DealtBatches(order, [1] * pairs, share=2, processes=2, process=rank, drop_last=False))


def test_the_first_processs_order_counts(tmp_path):
    first, second = run_together(deal_an_order_of_its_own, tmp_path / "log", 8)
    assert [sorted(one + other) for one, other in zip(first, second, strict=True)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [(16, [8, 8]), (18, [8, 8, 2]), (17, [8, 9]), (3, [3]), (8, [8])],
    ids=["even", "a smaller batch", "a rest too small for a batch", "fewer than a batch", "one batch"],
)
def test_the_end_of_an_epoch(pairs, sizes):
    assert batch_sizes(pairs, whole=8, processes=2) == sizes


def test_the_end_of_an_epoch_may_be_dropped():
    assert batch_sizes(18, whole=8, processes=2, drop_last=True) == [8, 8]
    assert batch_sizes(3, whole=8, processes=2, drop_last=True) == [3]  # or nothing would be trained


def test_a_batch_is_balanced():
    tokens = [100, 90, 10, 20, 30, 5, 5, 60]
    assert (
        deal(range(8), tokens, 2) == [[0, 4, 5, 6], [1, 2, 3, 7]] or imbalance(deal(range(8), tokens, 2), tokens) < 1.1
    )
    assert imbalance([[0, 1, 2, 3], [4, 5, 6, 7]], tokens) > 1.3
    assert imbalance([[0], [1]], [30, 10]) == 1.5


def test_real_pairs_are_balanced(shared_data):
    """Dealt in turn, as accelerate does, the busiest of four processes has a tenth more than the mean and more."""
    with (shared_data / "preferences" / "ultrafeedback.train.jsonl").open() as file:
        rows = [json.loads(line) for line in itertools.islice(file, 512)]
    words = [sum(len(json.dumps(row[name]).split()) for name in ("chosen", "rejected")) for row in rows]
    assert len(words) == 512
    order = list(range(512))
    random.Random(0).shuffle(order)
    batches = [order[start : start + 32] for start in range(0, 512, 32)]
    dealt = [imbalance(deal(batch, words, 4), words) for batch in batches]
    in_turn = [imbalance([batch[start : start + 8] for start in range(0, 32, 8)], words) for batch in batches]
    assert sum(dealt) / 16 < 1.02
    assert sum(in_turn) / 16 > 1.1


@pytest.mark.parametrize(
    ("max_length", "mode"), [(None, "keep_start"), (12, "keep_start"), (12, "keep_end"), (4, "keep_end")]
)
def test_packed_tokens_are_what_packs_hold(max_length, mode):
    prompt, one, short, middle, long = draw(7, 6, 1, 2, 5, 9)
    pairs = [(prompt, middle, long), (one, short, middle), (middle, long, long[:4])]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    dataset = Dataset.from_list([dict(zip(names, pair, strict=True)) for pair in pairs]).select([2, 0, 1])
    expected = []
    for pair in (pairs[2], pairs[0], pairs[1]):
        batch = padded_batch([pair], max_length, mode)
        (pack,) = pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
        expected.append(pack.tokens)
    assert packed_tokens(dataset, Limits(max_length, mode)) == expected


def test_unequal_gathering_ends_with_its_block():
    accelerator = Accelerator(cpu=True)
    with gathering_unequal(accelerator):
        assert accelerator.gather(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
        assert accelerator.gather(torch.tensor(3)).tolist() == [3]
        assert accelerator.gather_for_metrics(torch.tensor(3)).sum() == 3
        assert "gather" in vars(accelerator)
    assert "gather" not in vars(accelerator)
