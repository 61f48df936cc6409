"""Make packs where batches are made, whatever collator makes them."""

from __future__ import annotations

__all__ = ()

import logging
from collections.abc import Callable
from typing import Any

import torch

from ropo.training.packing.layout import find_obstacle, pack_batch

logger = logging.getLogger(__name__)

NUMBER = "record_number"  # the column that remembers a record's place in the data it came from


class PackingCollator:
    """Collate a batch, and add its packs and its records' numbers.

    A batch that cannot be packed exactly is left padded, and that is said once.

    Args:
        collate: What makes the padded batch: TRL's collator, or the user's.
        packing: Whether to pack.
        budget: Most tokens in a pack; None puts the whole batch into one.

    Cost: a few milliseconds for a batch, on the CPU.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any], packing: bool, budget: int | None) -> None:
        self.collate, self.packing, self.budget = collate, packing, budget
        self._told = False

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch; numbers and packs come last, because accelerate measures a batch by its first entry."""
        batch = dict(self.collate(examples))
        added: dict[str, Any] = {}
        if self.packing:
            obstacle = find_obstacle(batch)
            if obstacle is None:
                layout = (batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
                added["packs"] = pack_batch(*layout, budget=self.budget)
            elif not self._told:
                logger.warning(f"training padded: {obstacle}")
                self._told = True
        if NUMBER in examples[0]:
            added[NUMBER] = torch.tensor([example[NUMBER] for example in examples])
        return {**batch, **added}


def without_numbers(batch: dict[str, Any]) -> dict[str, Any]:
    """Take the records' numbers out of a batch: TRL gives the model what it does not know."""
    return {name: value for name, value in batch.items() if name != NUMBER}
