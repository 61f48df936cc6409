"""Decide whether a trainer's batches are packed, pack them where they are made, and count what packing saves."""

from __future__ import annotations

__all__ = ()

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ropo.lm.adapters import base_model_of
from ropo.lm.capacity import virtual_tokens
from ropo.lm.packing.layout import Pack, find_obstacle, pack_batch
from ropo.lm.spreading import is_spread
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sharding import is_cut, without_deepspeed
from ropo.training.packing.fused import enable_packing

logger = logging.getLogger(__name__)

NUMBER = "record_number"  # the column that remembers a record's place in the data it came from


class Packer:
    """Pack a trainer's batches, where that computes the same, and count tokens.

    Args:
        trainer: With its models as they are trained. A model that cannot be packed is trained padded, with one line
            that says why.
        together: How many processes compute each pair together, for which nothing is packed.
    """

    def __init__(self, trainer: Any, together: int = 1) -> None:
        self.padded_tokens = self.unique_tokens = 0
        self._since = 0.0
        self._budget = trainer.args.tokens_per_step
        self._together = together
        obstacle = _obstacle(trainer) if together == 1 else f"each pair is cut over {together} processes"
        self.active = obstacle is None
        if obstacle is not None and trainer.args.packing:
            logger.warning(
                f"training padded: {type(base_model_of(trainer.model)).__name__} cannot be packed, {obstacle}"
            )

    def collator(self, collate: Callable[[list[dict[str, Any]]], Any]) -> PackingCollator:
        """Return a collator that packs what another one makes."""
        return PackingCollator(collate, self.active, self._budget)

    def count(self, inputs: dict[str, Any]) -> None:
        """Count a batch's tokens, from the first batch after a log, so that evaluation is not timed."""
        if not self.unique_tokens:
            self._since = time.perf_counter()
        padded = inputs["input_ids"].numel()
        packs: tuple[Pack, ...] = inputs.get("packs", ())
        self.padded_tokens += padded
        self.unique_tokens += sum(pack.tokens for pack in packs) if packs else padded

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Leave the time of what is done inside out of the speed, but not what a GPU still has to do of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    def amend(self, logs: dict[str, float], accelerator: Any) -> None:
        """Add the speed in unique tokens and what packing saves to a log of training, and start to count anew."""
        if not self.unique_tokens:
            return
        counts = torch.tensor([[self.padded_tokens, self.unique_tokens]], device=accelerator.device)
        padded, unique = (accelerator.gather(counts).sum(dim=0) // self._together).tolist()
        logs["unique_tokens_per_second"] = unique / (time.perf_counter() - self._since)
        logs["packing_ratio"] = padded / unique
        self.padded_tokens = self.unique_tokens = 0

    def counters(self) -> dict[str, Any]:
        """Return the tokens since the last log, and for how long they have been counted."""
        return {
            "padded_tokens": self.padded_tokens,
            "unique_tokens": self.unique_tokens,
            "seconds": time.perf_counter() - self._since,
        }

    def share(self, of_all: Sequence[dict[str, Any]], place: int, processes: int) -> dict[str, Any]:
        """Give each process its part of the tokens of all."""

        def part(name: str) -> int:
            return (sum(each[name] for each in of_all) + place) // processes

        return {"seconds": of_all[0]["seconds"], **{name: part(name) for name in ("padded_tokens", "unique_tokens")}}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from them."""
        self.padded_tokens, self.unique_tokens = counters["padded_tokens"], counters["unique_tokens"]
        self._since = time.perf_counter() - counters["seconds"]


class PackingCollator:
    """Collate a batch, and add its packs and its records' numbers.

    A batch that cannot be packed exactly is left padded, and that is said once.

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


def _obstacle(trainer: Any) -> str | None:
    """Prepare the models to take packs, or say why they cannot."""
    if not trainer.args.packing:
        return "packing is off"
    if trainer._is_vision_dataset:
        return "the data has images"
    if trainer.args.neftune_noise_alpha:
        return "NEFTune draws its noise for the padded batch"
    if trainer.aux_loss_enabled:
        return "its load-balancing loss counts the tokens of the padded batch"
    if virtual_tokens(trainer.model):
        return "its adapter prepends virtual tokens"
    if is_cut(trainer.model):
        return "DeepSpeed has cut its weights already; load it before the trainer's configuration is made"
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    with without_deepspeed(trainer.args):
        where = [by_the_first] if is_spread(trainer.model) else []
        reason = enable_packing(base_model_of(trainer.model), autocast, *where)
    if reason is None and trainer.ref_model is not None:
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)  # DeepSpeed's engine may be around it already
        with without_deepspeed(trainer.args, reference):
            reason = enable_packing(reference, autocast)
    return reason
