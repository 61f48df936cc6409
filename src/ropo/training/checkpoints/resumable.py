"""A trainer that can be killed at any moment and goes on as if it had not been."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints
from trl import DPOTrainer

from ropo.core.errors import UserError
from ropo.training.checkpoints.folder import PREFIX, complete, find_fault, newest_whole, unfinished_folder
from ropo.training.checkpoints.state import load_state, random_state, save_state, set_random_state

COUNTERS: tuple[str, ...] = ("_total_train_tokens", "_total_loss_scalar", "_globalstep_last_logged", "_skipped_steps")
COUNTERS += ("_padded_tokens", "_unique_tokens")


class ResumableTrainer(DPOTrainer):
    """Write checkpoints that appear whole, in safetensors and JSON, and hold all that the next step depends on.

    Where `transformers.Trainer` pickles the optimizer, the scheduler, the random state and its arguments, and forgets
    what it has summed up since the last log, this keeps the former as plain data and the latter too, so that a resumed
    run logs and ends as the uninterrupted one. DeepSpeed's engine has its own, pickled format, and FSDP
    shards the optimizer: under them a checkpoint holds the weights only.
    """

    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    _padded_tokens: int
    _unique_tokens: int
    _skipped_steps: int
    _counting_since: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._resumed: Path | None = None
        super().__init__(*args, **kwargs)
        self.add_callback(_RestoreCounters(self))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"{PREFIX}{self.state.global_step}"
        unfinished = unfinished_folder(folder)
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.store_flos()
        self.save_model(str(unfinished), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(unfinished))
            self._save_scaler(str(unfinished))
            self._save_rng_state(str(unfinished))
        if self.state.best_global_step:
            best = folder.with_name(f"{PREFIX}{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best) if best.exists() or best == folder else None
        if self.args.should_save:
            self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            complete(folder)
            limit, best_checkpoint = self.args.save_total_limit, self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), limit, best_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            save_state(self.optimizer.state_dict(), Path(output_dir, "optimizer"))
            save_state(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.is_deepspeed_enabled:
            self.optimizer.load_state_dict(load_state(Path(checkpoint, "optimizer")))
            self.lr_scheduler.load_state_dict(load_state(Path(checkpoint, "scheduler")))

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if self.args.should_save and scaler is not None:
            save_state(scaler.state_dict(), Path(output_dir, "scaler"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None:
            scaler.load_state_dict(load_state(Path(checkpoint, "scaler")))

    def _save_rng_state(self, output_dir: str) -> None:
        os.makedirs(output_dir, exist_ok=True)
        state = {"random": random_state(), "counters": self._counters()}
        save_state(state, self._process_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self._resumed = None if checkpoint is None else Path(checkpoint)
        if checkpoint is not None:
            set_random_state(load_state(self._process_file(checkpoint))["random"])

    def _process_file(self, folder: str | Path) -> Path:
        return Path(folder, f"process_{self.args.process_index}")

    def _counters(self) -> dict[str, Any]:
        """Return what is summed up from one log to the next, and from the start."""
        return {
            "values": {name: getattr(self, name) for name in COUNTERS},
            "loss": self._tr_loss,
            "metrics": dict(self._metrics["train"]),
            "seconds": time.perf_counter() - self._counting_since,
        }

    def _set_counters(self, counters: dict[str, Any]) -> None:
        for name, value in counters["values"].items():
            setattr(self, name, value)
        self._tr_loss = counters["loss"].to(self.args.device)
        self._metrics["train"].update(counters["metrics"])
        self._counting_since = time.perf_counter() - counters["seconds"]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, going on from a checkpoint where one is named, or from the newest whole one for True.

        Raises:
            UserError: If the checkpoint is not whole, or there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint, _ = newest_whole(Path(str(self.args.output_dir)))
            if resume_from_checkpoint is None:
                raise UserError(
                    f"resume_from_checkpoint: {self.args.output_dir} holds no whole checkpoint; leave it out to start"
                )
        self._resumed = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._resumed is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "resume: a run that FSDP or DeepSpeed shards cannot go on from a checkpoint; start it afresh"
            )
        if self._resumed is not None and (fault := find_fault(self._resumed)):
            raise UserError(f"resume_from_checkpoint {self._resumed}: {fault}; name another checkpoint")
        if self._resumed is not None and not self.args.save_only_model:
            self._check_processes(self._resumed)
        # accelerate leaves alone what it has prepared, if only to measure it: each process would train by itself.
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        return super().train(None if self._resumed is None else str(self._resumed), *args, **kwargs)

    def _check_processes(self, checkpoint: Path) -> None:
        count = len(list(checkpoint.glob("process_*.json")))
        if count != self.args.world_size:
            raise UserError(
                f"resume_from_checkpoint {checkpoint}: was written by {count} process(es), not {self.args.world_size}; "
                f"start {count}"
            )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run an epoch, but no step where none is left: transformers looks for that only after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if self.control.should_training_stop:
            self.model.train()  # as after a step: TRL logs the metrics of training only in this mode
        else:
            super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean loss of the whole run at its end, not of its steps since it was resumed."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step - self._skipped_steps, 1)
        super().log(logs, start_time)


class _RestoreCounters(TrainerCallback):
    """Restore the counters after transformers has set them to zero and before the first step."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Restore."""
        resumed = self.trainer._resumed
        if resumed is not None and not self.trainer.args.save_only_model:
            self.trainer._set_counters(load_state(self.trainer._process_file(resumed))["counters"])
