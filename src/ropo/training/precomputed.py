"""Reference log-probs in advance: from the cache, computed at once, or as soon as a process can run the reference.

FSDP and DeepSpeed cut the weights when training begins, and before that a model that needs them fits no device. The
data then hold numbers of rows in a table, which is filled, by all processes together, as soon as the weights are cut;
the cache is asked before that, so a second run computes nothing.
"""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedConfig, TrainerCallback

from ropo.core.errors import UserError
from ropo.training import reference_cache
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.processes import by_the_first
from ropo.training.distributed.sharding import uses_fsdp

_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class _NoReference(FSDPModule, nn.Module):
    """Stand in for the reference model that TRL would load for FSDP's sake, and that nobody runs."""

    config = PreTrainedConfig()

    def __new__(cls) -> _NoReference:
        """Make it as any module; FSDPModule's own is for the classes that `fully_shard` makes."""
        return object.__new__(cls)


def given_or_stand_in(reference: Any, config: PreferenceConfig, adapted: bool) -> Any:
    """Return a reference model, or a stand-in where TRL would load one under FSDP that nobody runs."""
    idle = uses_fsdp(config) and config.precompute_ref_log_probs and not adapted and reference is None
    return _NoReference() if idle else reference


class PrecomputedReference(TrainerCallback):
    """Add the reference's log-probs to data, and under FSDP and DeepSpeed compute them when training begins.

    Args:
        trainer: Whose data they are for; where its weights are sharded, its policy at the start, without its adapter,
            is the reference.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._waiting: list[tuple[Dataset, str, int, Path | None]] = []
        self._rows = 0
        self._table: Float[Tensor, "records 2"] | None = None

    def add_to(self, dataset: Any, name: str, batch_size: int) -> Dataset:
        """Return a data set with log-probs or, where they cannot be computed yet, with the numbers of rows to come.

        Args:
            dataset: Tokenised records.
            name: What to call them on the progress bar.
            batch_size: Records in a batch of each process.

        Raises:
            UserError: For a stream, as TRL refuses it: its order may change, and it may have no end; and for a
                reference model beside weights that are sharded.

        Cost: one forward pass of the reference over the data, the first time.
        """
        trainer = self.trainer
        if isinstance(dataset, IterableDataset):
            raise UserError(
                f"precompute_ref_log_probs: the {name} data is a stream, whose order may change and which may not end; "
                "give a Dataset, or leave the option out"
            )
        if isinstance(trainer.ref_model, _NoReference):
            trainer.ref_model = None
        late = trainer.holders.are_sharded
        if late and trainer.ref_model is not None:
            raise UserError(
                "precompute_ref_log_probs: with FSDP and DeepSpeed the reference is the model that training starts "
                "from; leave ref_model out, or the option"
            )
        if late and self._table is not None:  # training has begun
            return _with_columns(dataset, self._compute(dataset, name, batch_size, None))
        look: Callable[[], Any] = lambda: self._kept(dataset)  # noqa: E731
        path, found = by_the_first(look) if late else look()  # which may be the only one with the weights
        if found is None and not late:
            found = self._compute(dataset, name, batch_size, path)
        if found is not None:
            return _with_columns(dataset, found)
        self._waiting.append((dataset, name, batch_size, path))
        rows = list(range(self._rows, self._rows + len(dataset)))
        self._rows += len(dataset)
        for column in _COLUMNS:
            dataset = dataset.add_column(column, rows)
        return dataset

    def _kept(self, dataset: Dataset) -> tuple[Path | None, Any]:
        path = reference_cache.cache_file(self.trainer, dataset)
        return path, None if path is None else reference_cache.load(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fill the table.

        Raises:
            UserError: If the policy is the reference, and has been trained.
        """
        trainer = self.trainer
        if self._waiting and state.global_step and not is_peft_model(trainer.model):
            raise UserError(
                "precompute_ref_log_probs: they are no longer in the cache (HF_DATASETS_CACHE), and the weights that "
                "would give them have been trained; start the run afresh"
            )
        tables = [self._compute(*each) for each in self._waiting]
        self._waiting = []
        found = torch.cat(tables) if tables else torch.empty(0, 2)
        self._table = found.to(trainer.accelerator.device)

    def look_up(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with log-probs where it has numbers of rows.

        Raises:
            UserError: If training has not begun.
        """
        rows = inputs.get(_COLUMNS[0])
        if rows is None or rows.is_floating_point():
            return inputs
        if self._table is None:
            raise UserError(
                "precompute_ref_log_probs: with FSDP and DeepSpeed they are computed when training begins, and nothing "
                "can be evaluated before; call train first, or leave the option out"
            )
        chosen, rejected = self._table[rows.to(self._table.device)].unbind(dim=1)
        return {**inputs, _COLUMNS[0]: chosen, _COLUMNS[1]: rejected}

    def _compute(self, dataset: Dataset, name: str, batch_size: int, path: Path | None) -> Float[Tensor, "records 2"]:
        """Compute log-probs, and keep them where there is a place for them."""
        found = reference_cache.compute(self.trainer, dataset, name, batch_size)
        if path is not None and self.trainer.accelerator.is_main_process:
            reference_cache.save(path, found)
        return found


def _with_columns(dataset: Dataset, table: Float[Tensor, "records 2"]) -> Dataset:
    for column, values in zip(_COLUMNS, table.T, strict=True):
        dataset = dataset.add_column(column, values.tolist())
    return dataset
