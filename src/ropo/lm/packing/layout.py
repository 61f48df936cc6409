"""Lay preference pairs out in one row, without padding and with every shared prompt once.

A prompt p and its answers a, b become

    p[0] ... p[-1] a[0] ... a[-2] | p[-1] b[0] ... b[-2]

The first answer simply continues its prompt. Every further answer starts with a copy of the prompt's last token, so
that "the state at a position predicts the next token" holds at each seam, and attends to `p[:-1]` and itself. Positions
of a further answer go on from its prompt's. The last token of an answer predicts nothing and is left out.
"""

from __future__ import annotations

__all__ = ["Pack", "Sequence", "build_pack", "find_obstacle", "pack_batch", "split_by_budget"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Int, Int32
from torch import Tensor

_BATCH_FIELDS = {"input_ids", "attention_mask", "completion_mask", "ref_chosen_logps", "ref_rejected_logps"}


@dataclass(frozen=True)
class Segment:
    """A run of tokens that attends to a prefix in full and to itself causally.

    Args:
        length: Tokens of the run.
        prefix_start: Position in the pack at which the prefix starts.
        prefix_length: Tokens of the prefix; 0 where the run stands on its own.
    """

    length: int
    prefix_start: int = 0
    prefix_length: int = 0


@dataclass(frozen=True)
class Sequence:
    """One padded row, without its padding.

    Args:
        tokens: Prompt and answer.
        start: Position of the first token; 0 but in a row that is padded on the left.
        prompt_length: Tokens before the first one that is scored; at least 1.
        cells: For each token after the prompt, its index in the flattened grid of next-token scores (rows, width - 1),
            or None where it is not scored.
    """

    tokens: list[int]
    start: int
    prompt_length: int
    cells: list[int | None]


@dataclass(frozen=True)
class GatheredKeys:
    """The keys of all segments in one row.

    Args:
        index: Position in the pack of each key.
        query_ends: Where each segment's queries end, from 0.
        key_ends: Where each segment's keys end, from 0.
        most_queries: Queries of the longest segment.
        most_keys: Keys of the longest segment.
    """

    index: Int[Tensor, " keys"]
    query_ends: Int32[Tensor, " ends"]
    key_ends: Int32[Tensor, " ends"]
    most_queries: int
    most_keys: int


@dataclass(frozen=True)
class Pack:
    """Several sequences in one row that share their prompts.

    Args:
        input_ids: Token ids.
        position_ids: Position of each token in the sequence that it came from.
        segments: The runs that make up the row, in order; together they say which token sees which.
        scored: Positions whose hidden state predicts an answer token.
        targets: The answer tokens that those states predict.
        cells: Where each score belongs in the flattened (rows, width - 1) grid of the padded batch.
    """

    input_ids: Int[Tensor, "1 tokens"]
    position_ids: Int[Tensor, "1 tokens"]
    segments: tuple[Segment, ...]
    scored: Int[Tensor, " answers"]
    targets: Int[Tensor, "1 answers"]
    cells: Int[Tensor, " answers"]
    _masks: dict[tuple[Segment, int | None], Bool[Tensor, "queries keys"] | None] = field(default_factory=dict)

    def mask(self, segment: Segment, window: int | None) -> Bool[Tensor, "queries keys"] | None:
        """Return what `segment` sees of its prefix and itself, or None where that is plainly causal.

        Every layer asks for the same few masks, so they are kept.
        """
        if (segment, window) not in self._masks:
            self._masks[segment, window] = segment_mask(segment, window, self.input_ids.device)
        return self._masks[segment, window]

    @cached_property
    def gathered_keys(self) -> GatheredKeys:
        """Each segment's keys (its prefix, then itself) in one row, as variable-length kernels want them."""
        return gather_keys(self.segments, self.input_ids.device)

    @property
    def tokens(self) -> int:
        """Number of tokens that the model computes."""
        return self.input_ids.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pack:
        """Return the pack on a device, as accelerate moves batches."""
        names = ("input_ids", "position_ids", "scored", "targets", "cells")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved, _masks={})


def segment_mask(
    segment: Segment, window: int | None, device: torch.device | str
) -> Bool[Tensor, "queries keys"] | None:
    """Build the mask of one segment over its prefix and itself; None where plain causal attention says the same."""
    keys = segment.prefix_length + segment.length
    if segment.prefix_length == 0 and (window is None or keys <= window):
        return None
    query = torch.arange(segment.prefix_length, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def gather_keys(segments: tuple[Segment, ...], device: torch.device | str) -> GatheredKeys:
    """Gather each segment's keys: its prefix, then itself."""
    queries = [segment.length for segment in segments]
    keys = [segment.prefix_length + segment.length for segment in segments]
    index: list[int] = []
    for start, segment in zip(accumulate(queries, initial=0), segments, strict=False):
        index += range(segment.prefix_start, segment.prefix_start + segment.prefix_length)
        index += range(start, start + segment.length)
    query_ends, key_ends = (
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (queries, keys)
    )
    return GatheredKeys(torch.tensor(index, device=device), query_ends, key_ends, max(queries), max(keys))


def _read_sequences(
    input_ids: Int[Tensor, "rows width"],
    attention_mask: Int[Tensor, "rows width"],
    completion_mask: Int[Tensor, "rows width"],
) -> list[Sequence]:
    """Strip the padding from a batch without `find_obstacle`; rows in which nothing is scored are left out."""
    width = input_ids.shape[1]
    starts = attention_mask.argmax(dim=1).tolist()
    lengths = attention_mask.sum(dim=1).tolist()
    sequences = []
    for row, (ids, scored, start, length) in enumerate(
        zip(input_ids.tolist(), completion_mask.tolist(), starts, lengths, strict=True)
    ):
        tokens, scored = ids[start : start + length], scored[start : start + length]
        scored_columns = [column for column in range(1, length) if scored[column]]  # nothing predicts the first token
        if not scored_columns:
            continue
        first, end = scored_columns[0], scored_columns[-1] + 1
        offset = row * (width - 1) + start - 1
        cells = [offset + column if scored[column] else None for column in range(first, end)]
        sequences.append(Sequence(tokens[:end], start, first, cells))
    return sequences


def find_obstacle(batch: Mapping[str, Any]) -> str | None:
    """Say why a collator's batch cannot be packed exactly; None where each row is one run of tokens, no more."""
    if other := sorted(set(batch) - _BATCH_FIELDS):
        return f"the collator adds {', '.join(other)}"
    attended, scored = batch["attention_mask"], batch["completion_mask"]
    if attended.ndim != 2:
        return "the collator's attention mask is not one number per token"
    attended, scored = attended.bool(), scored.bool()
    begins = attended.clone()
    begins[:, 1:] &= ~attended[:, :-1]
    if bool((begins.sum(dim=1) > 1).any()):
        return "the collator's attention mask has gaps"
    begins[:, 0] = False  # nothing predicts the first column, here or there
    if bool((scored & (begins | ~attended)).any()):
        return "the collator scores tokens that padding predicts"
    return None


def share_prompts(sequences: Iterable[Sequence]) -> list[list[Sequence]]:
    """Group sequences by their prompt and its place, in order of first appearance."""
    groups: dict[tuple[int, ...], list[Sequence]] = {}
    for sequence in sequences:
        key = (sequence.start, *sequence.tokens[: sequence.prompt_length])
        groups.setdefault(key, []).append(sequence)
    return list(groups.values())


def _packed_length(group: list[Sequence]) -> int:
    """Count the tokens that a group of sequences with one prompt takes in a pack."""
    return group[0].prompt_length - 1 + sum(len(sequence.cells) for sequence in group)


def cut_groups(groups: Iterable[list[Sequence]], budget: int | None) -> Iterator[list[Sequence]]:
    """Cut groups of more than `budget` packed tokens; each part has the prompt, which windows of a text may share."""
    for group in groups:
        part: list[Sequence] = []
        for sequence in group:
            if part and budget is not None and _packed_length([*part, sequence]) > budget:
                yield part
                part = []
            part.append(sequence)
        yield part


def split_by_budget(groups: Iterable[list[Sequence]], budget: int | None) -> Iterator[list[list[Sequence]]]:
    """Cut groups, in order, into runs of at most `budget` packed tokens; a larger group makes a run of its own."""
    run: list[list[Sequence]] = []
    for group in groups:
        if run and budget is not None and sum(map(_packed_length, [*run, group])) > budget:
            yield run
            run = []
        run.append(group)
    if run:
        yield run


def build_pack(groups: list[list[Sequence]], device: torch.device | str) -> Pack:
    """Lay groups of sequences out in one row, each group's prompt once."""
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    scores: list[tuple[int, int, int]] = []  # (position in the pack, target token, cell)
    for group in groups:
        prefix_start, prefix_length = len(tokens), group[0].prompt_length - 1
        for index, sequence in enumerate(group):
            first = 0 if index == 0 else prefix_length
            offset = len(tokens) - first  # of the pack against the sequence
            tokens += sequence.tokens[first:-1]
            positions += range(sequence.start + first, sequence.start + len(sequence.tokens) - 1)
            segments.append(Segment(len(sequence.tokens) - 1 - first, prefix_start, first))
            scores += [
                (offset + column - 1, sequence.tokens[column], cell)
                for column, cell in enumerate(sequence.cells, start=sequence.prompt_length)
                if cell is not None
            ]
    scored, targets, cells = torch.tensor(scores, device=device).T
    row = torch.tensor([tokens, positions], device=device)
    return Pack(row[:1], row[1:], tuple(segments), scored, targets[None], cells)


def pack_batch(
    input_ids: Int[Tensor, "rows width"],
    attention_mask: Int[Tensor, "rows width"],
    completion_mask: Int[Tensor, "rows width"],
    budget: int | None = None,
) -> tuple[Pack, ...]:
    """Turn the padded batch of a preference collator, in which `find_obstacle` finds none, into packs.

    Args:
        input_ids: Token ids, chosen rows first, then rejected.
        attention_mask: 1 on tokens, 0 on padding.
        completion_mask: 1 on the tokens to score.
        budget: Most tokens in a pack; None puts the whole batch into one.

    Returns:
        The packs; none where the batch has no token to score.

    Cost: a few milliseconds of Python for thousands of tokens.
    """
    groups = share_prompts(_read_sequences(input_ids, attention_mask, completion_mask))
    return tuple(build_pack(run, input_ids.device) for run in split_by_budget(groups, budget))
