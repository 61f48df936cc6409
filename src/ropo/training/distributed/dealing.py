"""Deal each batch's pairs out to several processes: every pair once an epoch, about the same work for each."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import starmap
from typing import Any

import pyarrow.compute
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from ropo.core.errors import UserError
from ropo.lm.tokens import Limits
from ropo.training.config import PreferenceConfig


class DealtBatches(BatchSampler):
    """Yield one process's share of each batch of all processes.

    A batch of all processes holds the pairs that one process would have put into a batch of `processes * share`, in
    the same order of the epoch, so that both train alike. What is left at the end of an epoch makes a smaller batch; a
    rest of fewer pairs than processes goes into the batch before it, for every process needs a pair.

    Args:
        order: Yields the epoch's order of pairs; the first process's order counts.
        tokens: Packed tokens of each pair.
        share: Pairs a process gets of a batch.
        processes: Number of processes.
        process: The index of this one.
        drop_last: Whether the smaller batch at the end is left out.

    Raises:
        UserError: If there are fewer pairs than processes.
    """

    def __init__(
        self, order: Any, tokens: Sequence[int], share: int, processes: int, process: int, drop_last: bool
    ) -> None:
        if len(tokens) < processes:
            raise UserError(
                f"data: {len(tokens)} pairs are too few for {processes} processes, each of which needs one in every "
                "batch; start fewer processes"
            )
        self.order, self.tokens = order, tokens
        self.processes, self.process = processes, process
        self.sizes = batch_sizes(len(tokens), share * processes, processes, drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of indices."""
        order = list(self.order)
        broadcast_object_list(order)
        start = 0
        for size in self.sizes:
            yield deal(order[start : start + size], self.tokens, self.processes)[self.process]
            start += size

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same for every process."""
        return len(self.sizes)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew."""
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)


def batch_sizes(pairs: int, whole: int, processes: int, drop_last: bool = False) -> list[int]:
    """Cut an epoch into batches of `whole` pairs and a smaller one, or a rest that is too small for a batch."""
    sizes, rest = [whole] * (pairs // whole), pairs % whole
    if drop_last and sizes:
        return sizes
    if rest < processes and sizes:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


def deal(batch: Sequence[int], tokens: Sequence[int], processes: int) -> list[list[int]]:
    """Share a batch out so that each process gets about as many tokens, and no two differ much in pairs.

    The longest pair goes first, each to the process with the fewest tokens so far that has room (Graham 1969's rule of
    the longest processing time first).

    Args:
        batch: At least `processes` indices.
        tokens: Tokens by index.
        processes: Number of processes.

    Returns:
        A list of indices, in the batch's order, for each process; none is empty or longer than the batch's part rounded
        up.
    """
    room = -(-len(batch) // processes)
    places: list[list[int]] = [[] for _ in range(processes)]
    work = [0] * processes
    for place in sorted(range(len(batch)), key=lambda place: -tokens[batch[place]]):
        process = min((each for each in range(processes) if len(places[each]) < room), key=work.__getitem__)
        places[process].append(place)
        work[process] += tokens[batch[place]]
    return [[batch[place] for place in sorted(mine)] for mine in places]


def packed_tokens(dataset: Dataset, limits: Limits) -> list[int]:
    """Return each pair's tokens in a pack, cut where TRL cuts them."""
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    table = dataset.select_columns(list(columns)).with_format("arrow")[:]
    lengths = (pyarrow.compute.list_value_length(table[column]).to_pylist() for column in columns)
    return list(starmap(limits.packed_tokens, zip(*lengths, strict=True)))


def deal_out(
    loader: DataLoader, dataset: Any, config: PreferenceConfig, accelerator: Accelerator, together: int
) -> None:
    """Let a data loader that accelerate has prepared deal its batches to several processes.

    accelerate would give whole batches to the processes in turn, whatever their length, and fill up the last ones with
    pairs from the beginning of the epoch. So many processes in a row, together, are given the same pairs.

    Raises:
        UserError: If they are to be given the same, and these pairs cannot be dealt.
    """
    shard: Any = getattr(loader, "batch_sampler", None)
    plain: Any = getattr(shard, "batch_sampler", None)
    dealt = isinstance(plain, BatchSampler) and isinstance(dataset, Dataset) and "chosen_ids" in dataset.column_names
    if dealt:
        processes, process = accelerator.num_processes // together, accelerator.process_index // together
        tokens, share = packed_tokens(dataset, config.limits), config.train_batch_size
        shard.batch_sampler = DealtBatches(plain.sampler, tokens, share, processes, process, plain.drop_last)
        # Nothing is left for it to do: no batches of others to pass over, none to fill up.
        shard.num_processes, shard.process_index, shard.batch_size, shard.even_batches = 1, 0, None, False
    elif together > 1:
        raise UserError(
            "parallelism_config sp_size: takes a data set of text pairs; leave it out for streams and images"
        )


@contextmanager
def gathering_unequal(accelerator: Accelerator) -> Iterator[None]:
    """Let processes gather tensors of different lengths, which TRL's metrics of a smaller batch need."""

    def gather(tensor: Tensor) -> Tensor:
        return torch.tensor(gather_object(tensor.flatten().tolist()), dtype=tensor.dtype, device=tensor.device)

    accelerator.gather = gather
    try:
        yield
    finally:
        del accelerator.gather


@contextmanager
def weighing(accelerator: Accelerator, pairs: int) -> Iterator[Tensor | None]:
    """Let processes compute losses of different numbers of pairs, and yield the weight of this one's.

    The mean over processes of the weighted losses, which their gradients are averaged to, is that over all pairs.

    Yields:
        The weight; None where all have as many.
    """
    of_all = accelerator.gather(torch.tensor([pairs], device=accelerator.device))
    if bool((of_all == pairs).all()):
        yield None
    else:
        with gathering_unequal(accelerator):
            yield pairs * len(of_all) / of_all.sum()
