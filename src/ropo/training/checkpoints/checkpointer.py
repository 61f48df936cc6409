"""Checkpoints that appear whole, in safetensors and JSON, and hold all that the next step depends on."""

from __future__ import annotations

__all__ = ()

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from ropo.core.errors import UserError
from ropo.training.checkpoints.folder import PREFIX, complete, find_fault, newest_whole, unfinished_folder
from ropo.training.checkpoints.optimizer import load_optimizer, save_optimizer
from ropo.training.checkpoints.state import load_state, random_state, save_state, set_random_state
from ropo.training.distributed.sequence import sharers
from ropo.training.distributed.sharding import is_cut


@runtime_checkable
class _Shared(Protocol):
    """What each process sums up by itself."""

    def share(self, of_all: Sequence[dict[str, Any]], place: int, processes: int) -> dict[str, Any]:
        """Return what the process at a place of so many goes on from, given what each of other processes had."""


@runtime_checkable
class Counting(Protocol):
    """What sums something up from step to step, and goes on where it was."""

    def counters(self) -> dict[str, Any]:
        """Return what has been summed up, as tensors and plain data."""

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from what `counters` gave."""


class Checkpointer(TrainerCallback):
    """Write and read a trainer's checkpoints, so that a run killed at any moment goes on as if it had not been.

    Where `transformers.Trainer` pickles the optimizer, the scheduler, the random state and its arguments, and forgets
    what it has summed up since the last log, this keeps the former as plain data and the latter too, so that a resumed
    run logs and ends as the uninterrupted one. Weights are saved whole, whoever holds parts of them, and are read
    before FSDP or DeepSpeed cuts them anew; `optimizer.py` says what becomes of the optimizer.
    """

    def __init__(self, trainer: Any, counting: Mapping[str, Counting]) -> None:
        self.trainer, self.counting = trainer, dict(counting)
        self.resumed: Path | None = None

    def save(self) -> None:
        """Write the checkpoint of the step just done, and drop the oldest where there are too many."""
        trainer, args = self.trainer, self.trainer.args
        folder = Path(str(args.output_dir)) / f"{PREFIX}{trainer.state.global_step}"
        unfinished = unfinished_folder(folder)
        self._first(lambda: _empty(unfinished))
        trainer.store_flos()
        trainer.save_model(str(unfinished), _internal_call=True)
        if not args.save_only_model:
            self._save_progress(unfinished)
        if trainer.state.best_global_step:
            best = folder.with_name(f"{PREFIX}{trainer.state.best_global_step}")
            trainer.state.best_model_checkpoint = str(best) if best.exists() or best == folder else None
        if args.should_save:
            trainer.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        trainer.accelerator.wait_for_everyone()
        self._first(lambda: self._finish(folder))
        if args.push_to_hub:
            trainer._push_from_checkpoint(str(folder))

    def resume_from(self, named: Any) -> Path | None:
        """Choose the checkpoint to go on from, and check it.

        Args:
            named: A checkpoint's folder; True for the newest whole one; None or False to start from the beginning.

        Raises:
            UserError: If it is not whole, there is none, or this run cannot go on from it.
        """
        args = self.trainer.args
        if named is True:
            named, _ = newest_whole(Path(str(args.output_dir)))
            if named is None:
                raise UserError(
                    f"resume_from_checkpoint: {args.output_dir} holds no whole checkpoint; leave it out to start"
                )
        self.resumed = Path(named) if named else None
        if self.resumed is None:
            return None
        if self.trainer.holders.are_sharded and (why := self._obstacle()):
            raise UserError(f"resume: {why}; start the run afresh")
        if fault := find_fault(self.resumed):
            raise UserError(f"resume_from_checkpoint {self.resumed}: {fault}; name another checkpoint")
        if not args.save_only_model:
            self._check_batch(self.resumed)
        return self.resumed

    def _check_batch(self, checkpoint: Path) -> None:
        """Refuse to go on with another number of pairs in a batch, of which processes may have other shares."""
        args, count, now = self.trainer.args, _sharers(checkpoint), sharers(self.trainer.args)
        share = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["train_batch_size"]
        given = args.train_batch_size * now
        if share is not None and share * count != given:
            raise UserError(
                f"resume_from_checkpoint {checkpoint}: {count} process(es) with {share} pairs each wrote it, and "
                f"{now} with {args.train_batch_size} have another batch; start {count}, or choose "
                f"--per_device_train_batch_size so that all have {share * count}"
            )

    def load_optimizer(self, checkpoint: Path) -> None:
        """Take up the optimizer's and the schedule's state."""
        load_optimizer(self.trainer, checkpoint)
        schedule = load_state(checkpoint / "scheduler")
        groups = len(self.trainer.optimizer.param_groups)
        for name in ("base_lrs", "_last_lr", "lr_lambdas"):  # DeepSpeed drops empty groups; all rates are one
            if name in schedule:
                schedule[name] = (schedule[name] * groups)[:groups]
        self.trainer.lr_scheduler.load_state_dict(schedule)

    def load_scaler(self, checkpoint: Path) -> None:
        """Take up the gradient scaler's state, where there is one."""
        if (scaler := self._scaler) is not None:
            scaler.load_state_dict(load_state(checkpoint / "scaler"))

    def load_random_state(self, checkpoint: Path) -> None:
        """Let random numbers go on where they were; a process that was not there then draws others than the rest."""
        place, count = self.trainer.args.process_index, _processes(checkpoint)
        set_random_state(load_state(_process_file(checkpoint, place % count))["random"])
        if place >= count:
            torch.manual_seed(int(torch.randint(2**31, ())) + place)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Restore the counters after transformers has set them to zero and before the first step."""
        if self.resumed is not None and not self.trainer.args.save_only_model:
            kept = self._counters(self.resumed)
            if missing := [name for name in self.counting if name not in kept]:
                raise UserError(
                    f"resume_from_checkpoint {self.resumed}: holds no state of {', '.join(missing)}; give the options "
                    "that it was written with"
                )
            for name, each in self.counting.items():
                each.set_counters(kept[name])

    def _counters(self, checkpoint: Path) -> dict[str, Any]:
        """Return what this process had summed up, or its share of it where there were fewer or more processes."""
        args, count = self.trainer.args, _processes(checkpoint)
        if count == args.world_size:
            return load_state(_process_file(checkpoint, args.process_index))["counters"]
        of_all = [load_state(_process_file(checkpoint, each))["counters"] for each in range(count)]
        kept = dict(of_all[0])  # most is agreed on by all processes
        for name, each in self.counting.items():
            if isinstance(each, _Shared) and name in kept:
                kept[name] = each.share([one[name] for one in of_all], args.process_index, args.world_size)
        return kept

    def _save_progress(self, folder: Path) -> None:
        trainer = self.trainer
        folder.mkdir(parents=True, exist_ok=True)
        save_optimizer(trainer, folder)
        if trainer.args.should_save:
            save_state(trainer.lr_scheduler.state_dict(), folder / "scheduler")
        if trainer.args.should_save and self._scaler is not None:
            save_state(self._scaler.state_dict(), folder / "scaler")
        counters = {name: each.counters() for name, each in self.counting.items()}
        place = trainer.args.process_index
        own = {"random": random_state(), "counters": counters, "sharers": sharers(trainer.args)}
        save_state(own, _process_file(folder, place))

    def _finish(self, folder: Path) -> None:
        complete(folder)
        limit, best = self.trainer.args.save_total_limit, self.trainer.state.best_model_checkpoint
        rotate_checkpoints(str(folder.parent), limit, best, use_mtime=True)

    def _first(self, action: Callable[[], None]) -> None:
        """Let the process that saves do something, and the others wait for it."""
        if self.trainer.args.should_save:
            action()
        self.trainer.accelerator.wait_for_everyone()

    def _obstacle(self) -> str | None:
        """Say why FSDP or DeepSpeed cannot go on from a checkpoint."""
        if is_cut(self.trainer.model):
            return "DeepSpeed has cut the weights already; load the model before the trainer's configuration is made"
        if self.trainer.is_deepspeed_enabled and self.trainer.args.fp16:
            return "under DeepSpeed's fp16 the loss scale is not in a checkpoint; use bf16"
        return None

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.accelerator, "scaler", None)


class LogCounters:
    """What transformers and TRL have summed up since the last log, and from the start."""

    NAMES = ("_total_train_tokens", "_total_loss_scalar", "_globalstep_last_logged")

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def counters(self) -> dict[str, Any]:
        """Return numbers, the loss and TRL's metrics."""
        values = {name: getattr(self.trainer, name) for name in self.NAMES}
        return {"values": values, "loss": self.trainer._tr_loss, "metrics": dict(self.trainer._metrics["train"])}

    def share(self, of_all: Sequence[dict[str, Any]], place: int, processes: int) -> dict[str, Any]:
        """Give every process the mean loss; the rest is agreed on."""
        return {**of_all[0], "loss": torch.stack([each["loss"] for each in of_all]).mean(dim=0)}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from them."""
        for name, value in counters["values"].items():
            setattr(self.trainer, name, value)
        self.trainer._tr_loss = counters["loss"].to(self.trainer.args.device)
        self.trainer._metrics["train"].update(counters["metrics"])


def _process_file(folder: Path, place: int) -> Path:
    return folder / f"process_{place}"


def _processes(checkpoint: Path) -> int:
    """Return how many processes wrote a checkpoint."""
    return len(list(checkpoint.glob("process_*.json")))


def _sharers(checkpoint: Path) -> int:
    """Return how many of them had pairs of their own."""
    return load_state(_process_file(checkpoint, 0)).get("sharers", _processes(checkpoint))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
