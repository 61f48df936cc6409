"""Never train on a loss or a gradient that is not finite: stop and say where it came from, or leave the step out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from ropo.core.errors import UserError
from ropo.training.checkpoints.folder import newest_whole
from ropo.training.checkpoints.resumable import ResumableTrainer
from ropo.training.collator import NUMBER
from ropo.training.config import PreferenceConfig
from ropo.training.sharding import trained_parameters

logger = logging.getLogger(__name__)

MOST_SKIPPED = 10  # steps in a row, after which nothing is left to hope for
SHOWN = 32  # records that a message names


@dataclass(frozen=True)
class Batch:
    """Say what one forward and backward pass of one process gave.

    Args:
        loss: Its loss.
        records: The numbers of its records; none where the data is a stream.
    """

    loss: float
    records: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """Say what is not finite in an optimizer step.

    Args:
        what: The loss, or the gradient, and its value.
        records: The numbers of the records that it came from, of all processes.
    """

    what: str
    records: tuple[int, ...]


class FiniteTrainer(ResumableTrainer):
    """Look at every loss and gradient before the optimizer uses it.

    Where one is NaN or infinite in any process, no process steps: the run stops with `UserError`, or, with
    `skip_non_finite`, the step counts but changes neither weights nor the optimizer's state, and is left out of the
    metrics. Weights that are not finite are never saved. DeepSpeed steps inside its backward pass, so there a fault
    stops the run with the step taken, and nothing can be skipped.

    Cost: one norm of the trained weights' gradients, and one number agreed on by all processes, for each step.
    """

    args: PreferenceConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._batches: list[Batch] = []
        self._skipped_steps = self._skipped_in_a_row = 0
        self._before_step: tuple[Tensor, dict[str, int]] = torch.tensor(0.0), {}
        super().__init__(*args, **kwargs)
        if self.args.skip_non_finite and self.is_deepspeed_enabled:
            raise UserError("skip_non_finite: DeepSpeed's engine steps by itself and skips nothing; leave it out")
        self.add_callback(_LookBeforeStep(self))

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Compute a batch's gradients, and remember its loss and records until the step."""
        if not self._batches:
            counts = {name: len(values) for name, values in self._metrics["train"].items()}
            self._before_step = self._tr_loss.clone(), counts
        records = inputs[NUMBER].tolist() if NUMBER in inputs else ()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._batches.append(Batch(loss.item(), tuple(records)))
        return loss

    def check_step(self) -> None:
        """Stop, or drop the gradients, if a loss or gradient of this step is not finite in any process.

        Raises:
            UserError: If one is not finite, and may not be skipped.
        """
        batches, self._batches = self._batches, []
        lost = any(not math.isfinite(batch.loss) for batch in batches)
        # A gradient scaler makes infinite gradients on purpose now and then, and leaves such steps out by itself.
        lost = lost or (self.accelerator.scaler is None and not is_finite(self._trained(), "grad"))
        if not self._anywhere(lost):
            self._skipped_in_a_row = 0
            return
        fault = find_fault(gather_object(batches) if self.args.world_size > 1 else batches)
        self._skipped_in_a_row += 1
        if not self.args.skip_non_finite or self._skipped_in_a_row > MOST_SKIPPED:
            raise UserError(self._explain(fault))
        if self.accelerator.is_main_process:
            logger.warning(f"step {self.state.global_step + 1} skipped: {fault.what}{self._places(fault)}")
        self._take_back()

    def _take_back(self) -> None:
        """Make the step one that changes nothing: parameters without gradient are passed over by every optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, counts = self._before_step
        self._tr_loss.copy_(loss)
        self._globalstep_last_logged += 1  # or the mean loss would count it as a step of loss zero
        for name in list(self._metrics["train"]):
            del self._metrics["train"][name][counts.get(name, 0) :]
            if not self._metrics["train"][name]:
                del self._metrics["train"][name]
        self._skipped_steps += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the number of skipped steps where there are some, and without their gradient norm."""
        if self._skipped_steps and "loss" in logs:
            logs["skipped_steps"] = self._skipped_steps
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, unless a trained weight is not finite.

        Raises:
            UserError: If one is not finite; nothing is written then.
        """
        self.check_weights()
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        if is_peft_model(self.model):
            weights = trained_parameters(self.model)
        else:  # transformers saves nothing unless its plugin says FULL_STATE_DICT, and says nothing
            weights = self.accelerator.get_state_dict(self.model)
        if self.args.should_save:
            self._save(output_dir, weights)

    def check_weights(self) -> None:
        """Raise `UserError` if a trained weight holds NaN or infinity in any process."""
        if not self._anywhere(not is_finite(self._trained(), "data")):
            return
        names = [name for name, each in self.model.named_parameters() if each.requires_grad and not _all_finite(each)]
        raise UserError(
            f"training diverged: {names[0] if names else 'a weight'} is not finite after step "
            f"{self.state.global_step}, and is not saved; {self._last_good()}; "
            f"lower --learning_rate, now {self.args.learning_rate:g}"
        )

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _anywhere(self, lost: bool) -> bool:
        """Tell whether something is lost in any process."""
        if self.args.world_size == 1:
            return lost
        flag = torch.tensor(float(lost), device=self.args.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _explain(self, fault: Fault) -> str:
        trained = self.state.global_step > 0
        mend = (
            f"lower --learning_rate, now {self.args.learning_rate:g}, look at these records, or leave such steps out "
            "with --skip_non_finite"
            if trained
            else "nothing was trained yet, so look at these records, and at the model: --dtype float32 has more range"
        )
        stepped = "nothing was trained on it"
        if self.is_deepspeed_enabled:
            stepped = "DeepSpeed may have trained on it"
            mend = f"lower --learning_rate, now {self.args.learning_rate:g}, or look at these records and at the model"
        return (
            f"training diverged: {fault.what} at step {self.state.global_step + 1}{self._places(fault)}; {stepped}; "
            f"{self._last_good()}; {mend}"
        )

    def _places(self, fault: Fault) -> str:
        """Name the records, by their place in the file where that is known."""
        if not fault.records:
            return ""
        data: Any = self.train_dataset
        if "where" not in data.column_names:
            return f", in the records {join(fault.records)} of the training data (counted from 0)"
        index = {number: row for row, number in enumerate(data[NUMBER])}
        return f", in {join_places([data[index[number]]['where'] for number in fault.records])}"

    def _last_good(self) -> str:
        checkpoint, _ = newest_whole(Path(str(self.args.output_dir)))
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"


class _LookBeforeStep(TrainerCallback):
    """Check before the optimizer steps."""

    def __init__(self, trainer: FiniteTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget what an earlier run left."""
        self.trainer._batches = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Check."""
        self.trainer.check_step()


def find_fault(batches: Sequence[Batch]) -> Fault:
    """Say which of a step's batches is to blame: those with a loss that is not finite, or else all of them."""
    lost = [batch for batch in batches if not math.isfinite(batch.loss)]
    what = f"the loss is {lost[0].loss}" if lost else "a gradient is not finite"
    return Fault(what, tuple(sorted({number for batch in lost or batches for number in batch.records})))


def is_finite(parameters: Iterable[Tensor], attribute: str) -> bool:
    """Tell whether the gradients (`grad`) or values (`data`) of parameters are finite, as far as this process has them.

    Cost: one norm; nothing is copied.
    """
    # ZeRO-3 leaves nothing in a parameter that it has cut; this process's part is in `ds_tensor`.
    held = (getattr(each, "ds_tensor", each) if attribute == "data" else each for each in parameters)
    values = [value for each in held if (value := getattr(each, attribute)) is not None]
    local = [value.to_local() if isinstance(value, DTensor) else value for value in values]
    return bool(get_total_norm(local).isfinite()) if local else True


def _all_finite(parameter: Float[Tensor, "*shape"]) -> bool:
    return is_finite([parameter], "data")


def join(numbers: Iterable[int | str]) -> str:
    """Write numbers as a list, cut off where it gets long."""
    kept = list(numbers)
    return ", ".join(map(str, kept[:SHOWN])) + (f", ... ({len(kept)} in all)" if len(kept) > SHOWN else "")


def join_places(places: Sequence[str]) -> str:
    """Write places in files as a list that names each file once: `a.jsonl:3, 5, b.jsonl:1`."""
    files = groupby(places, lambda place: place.rstrip("0123456789"))
    return ", ".join(file + join(place.removeprefix(file) for place in group) for file, group in files)
