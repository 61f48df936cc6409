"""Reference log-probs in advance where no process can run the reference before training has begun.

FSDP and DeepSpeed cut the weights when training begins, and before that a model that needs them fits no device. The
data then hold numbers of rows in a table, which is filled, by all processes together, as soon as the weights are cut;
the cache is asked before that, so a second run computes nothing.
"""

from __future__ import annotations

__all__ = ()

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedConfig, TrainerCallback

from ropo.core.errors import UserError
from ropo.training import reference_cache
from ropo.training.distributed.processes import by_the_first

_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class NoReference(FSDPModule, nn.Module):
    """Stand in for the reference model that TRL would load for FSDP's sake, and that nobody runs."""

    config = PreTrainedConfig()

    def __new__(cls) -> NoReference:
        """Make it as any module; FSDPModule's own is for the classes that `fully_shard` makes."""
        return object.__new__(cls)


class LateReference(TrainerCallback):
    """Compute the reference's log-probs when training begins.

    Args:
        trainer: Whose data they are for; its policy at the start, without its adapter, is the reference.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._waiting: list[tuple[Dataset, str, int, Path | None]] = []
        self._rows = 0
        self._table: Float[Tensor, "records 2"] | None = None

    def take(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Return a data set with log-probs from the cache or, where it has none, with the numbers of rows to come.

        Args:
            dataset: Tokenised records.
            name: What to call them on the progress bar.
            batch_size: Records in a batch of each process.
        """
        if self.trainer.ref_model is not None:
            raise UserError(
                "precompute_ref_log_probs: with FSDP and DeepSpeed the reference is the model that training starts "
                "from; leave ref_model out, or the option"
            )
        if self._table is not None:  # training has begun
            return _with_columns(dataset, self._compute(dataset, name, batch_size))
        path, kept = by_the_first(lambda: self._kept(dataset))  # which may be the only one with the weights
        if kept is not None:
            return _with_columns(dataset, torch.stack(kept, dim=1))
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
        tables = []
        for dataset, name, batch_size, path in self._waiting:
            tables.append(self._compute(dataset, name, batch_size))
            if path is not None and trainer.accelerator.is_main_process:
                reference_cache.save(path, *tables[-1].unbind(dim=1))
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

    def _compute(self, dataset: Dataset, name: str, batch_size: int) -> Float[Tensor, "records 2"]:
        model = self.trainer.model
        training = model.training
        model.eval()
        try:
            return torch.stack(reference_cache.compute(self.trainer, dataset, name, batch_size), dim=1)
        finally:
            model.train(training)


def _with_columns(dataset: Dataset, table: Float[Tensor, "records 2"]) -> Dataset:
    for column, values in zip(_COLUMNS, table.T, strict=True):
        dataset = dataset.add_column(column, values.tolist())
    return dataset
