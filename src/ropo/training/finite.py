"""Never train on a loss or a gradient that is not finite: stop and say where it came from, or leave the step out."""

from __future__ import annotations

__all__ = ()

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from ropo.core.errors import UserError
from ropo.training.checkpoints.folder import newest_whole
from ropo.training.distributed.processes import largest_of_all
from ropo.training.packing.packer import NUMBER

logger = logging.getLogger(__name__)

_MOST_SKIPPED = 10  # steps in a row, after which nothing is left to hope for
_SHOWN = 32  # records that a message names


@dataclass(frozen=True)
class BatchLoss:
    """Say what one pass of one process gave: its loss, and its records' numbers; none where the data is a stream."""

    loss: float
    records: tuple[int, ...]


@dataclass(frozen=True)
class _Fault:
    """Say what is not finite in an optimizer step, and of which records of all processes."""

    what: str
    records: tuple[int, ...]


class FiniteGuard(TrainerCallback):
    """Look at every loss and gradient before the optimizer uses it.

    Where one is NaN or infinite in any process, no process steps: the run stops with `UserError`, or, with
    `skip_non_finite`, the step counts but changes neither weights nor the optimizer's state, and is left out of the
    metrics. Weights that are not finite are never saved. DeepSpeed steps inside its backward pass, so there a fault
    stops the run with the step taken, and nothing can be skipped.

    Cost: one norm of the trained weights' gradients, and one number agreed on by all processes, for each step.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.batches: list[BatchLoss] = []
        self.skipped_steps = self._skipped_in_a_row = 0
        self._before_step: tuple[Tensor, dict[str, int]] = torch.tensor(0.0), {}
        if trainer.args.skip_non_finite and trainer.is_deepspeed_enabled:
            raise UserError("skip_non_finite: DeepSpeed's engine steps by itself and skips nothing; leave it out")

    def counters(self) -> dict[str, Any]:
        """Return the number of skipped steps."""
        return {"skipped_steps": self.skipped_steps}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from it."""
        self.skipped_steps = counters["skipped_steps"]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget what an earlier run left."""
        self.batches = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Stop, or drop the gradients, if a loss or gradient of this step is not finite in any process.

        Raises:
            UserError: If one is not finite, and may not be skipped.
        """
        trainer = self.trainer
        batches, self.batches = self.batches, []
        lost = any(not math.isfinite(batch.loss) for batch in batches)
        # A gradient scaler makes infinite gradients on purpose now and then, and leaves such steps out by itself.
        lost = lost or (trainer.accelerator.scaler is None and not is_finite(self._trained(), "grad"))
        if not self._anywhere(lost):
            self._skipped_in_a_row = 0
            return
        fault = fault_of(gather_object(batches) if trainer.args.world_size > 1 else batches)
        self._skipped_in_a_row += 1
        if not trainer.args.skip_non_finite or self._skipped_in_a_row > _MOST_SKIPPED:
            raise UserError(self._explain(fault))
        if trainer.accelerator.is_main_process:
            logger.warning(f"step {trainer.state.global_step + 1} skipped: {fault.what}{self._places(fault)}")
        self._take_back()

    def before_batch(self) -> None:
        """Remember the sums before a step's first batch, to take the step back."""
        if not self.batches:
            counts = {name: len(values) for name, values in self.trainer._metrics["train"].items()}
            self._before_step = self.trainer._tr_loss.clone(), counts

    def after_batch(self, loss: Tensor, records: Sequence[int]) -> None:
        """Remember a batch's loss and records until the step."""
        self.batches.append(BatchLoss(loss.item(), tuple(records)))

    def _take_back(self) -> None:
        """Make the step one that changes nothing: parameters without gradient are passed over by every optimizer."""
        trainer = self.trainer
        trainer.optimizer.zero_grad(set_to_none=True)
        loss, counts = self._before_step
        trainer._tr_loss.copy_(loss)
        trainer._globalstep_last_logged += 1  # or the mean loss would count it as a step of loss zero
        metrics = trainer._metrics["train"]
        for name in list(metrics):
            del metrics[name][counts.get(name, 0) :]
            if not metrics[name]:
                del metrics[name]
        self.skipped_steps += 1

    def amend(self, logs: dict[str, float]) -> None:
        """Add the number of skipped steps to a log where there are some, and take their gradient norm out."""
        if self.skipped_steps and "loss" in logs:
            logs["skipped_steps"] = self.skipped_steps
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]

    def check_weights(self) -> None:
        """Raise `UserError` if a trained weight holds NaN or infinity in any process."""
        if not self._anywhere(not is_finite(self._trained(), "data")):
            return
        trainer = self.trainer
        named = trainer.model.named_parameters()
        names = [name for name, each in named if each.requires_grad and not is_finite([each], "data")]
        raise UserError(
            f"training diverged: {names[0] if names else 'a weight'} is not finite after step "
            f"{trainer.state.global_step}, and is not saved; {self._last_good()}; "
            f"lower --learning_rate, now {trainer.args.learning_rate:g}"
        )

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]

    def _anywhere(self, lost: bool) -> bool:
        """Tell whether something is lost in any process."""
        return bool(largest_of_all(int(lost), self.trainer.args))

    def _explain(self, fault: _Fault) -> str:
        trainer = self.trainer
        rate = f"lower --learning_rate, now {trainer.args.learning_rate:g}"
        mend = (
            f"{rate}, look at these records, or leave such steps out with --skip_non_finite"
            if trainer.state.global_step > 0
            else "nothing was trained yet, so look at these records, and at the model: --dtype float32 has more range"
        )
        stepped = "nothing was trained on it"
        if trainer.is_deepspeed_enabled:
            stepped = "DeepSpeed may have trained on it"
            mend = f"{rate}, or look at these records and at the model"
        return (
            f"training diverged: {fault.what} at step {trainer.state.global_step + 1}{self._places(fault)}; {stepped}; "
            f"{self._last_good()}; {mend}"
        )

    def _places(self, fault: _Fault) -> str:
        """Name the records, by their place in the file where that is known."""
        if not fault.records:
            return ""
        data: Any = self.trainer.train_dataset
        if "where" not in data.column_names:
            return f", in the records {_join(fault.records)} of the training data (counted from 0)"
        index = {number: row for row, number in enumerate(data[NUMBER])}
        return f", in {join_places([data[index[number]]['where'] for number in fault.records])}"

    def _last_good(self) -> str:
        checkpoint, _ = newest_whole(Path(str(self.trainer.args.output_dir)))
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"


def fault_of(batches: Sequence[BatchLoss]) -> _Fault:
    """Say which of a step's batches is to blame: those with a loss that is not finite, or else all of them."""
    lost = [batch for batch in batches if not math.isfinite(batch.loss)]
    what = f"the loss is {lost[0].loss}" if lost else "a gradient is not finite"
    return _Fault(what, tuple(sorted({number for batch in lost or batches for number in batch.records})))


def is_finite(parameters: Iterable[Tensor], attribute: str) -> bool:
    """Tell whether the gradients (`grad`) or values (`data`) of parameters are finite, as far as this process has them.

    Cost: one norm; nothing is copied.
    """
    # ZeRO-3 leaves nothing in a parameter that it has cut; this process's part is in `ds_tensor`.
    held = (getattr(each, "ds_tensor", each) if attribute == "data" else each for each in parameters)
    values = [value for each in held if (value := getattr(each, attribute)) is not None]
    local = [value.to_local() if isinstance(value, DTensor) else value for value in values]
    return bool(get_total_norm(local).isfinite()) if local else True


def _join(numbers: Iterable[int | str]) -> str:
    """Write numbers as a list, cut off where it gets long."""
    kept = list(numbers)
    return ", ".join(map(str, kept[:_SHOWN])) + (f", ... ({len(kept)} in all)" if len(kept) > _SHOWN else "")


def join_places(places: Sequence[str]) -> str:
    """Write places in files as a list that names each file once: `a.jsonl:3, 5, b.jsonl:1`."""
    files = groupby(places, lambda place: place.rstrip("0123456789"))
    return ", ".join(file + _join(place.removeprefix(file) for place in group) for file, group in files)
