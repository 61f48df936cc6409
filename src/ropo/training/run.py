"""One training run: measure the held-out pairs, train, measure again, save."""

from __future__ import annotations

__all__ = ["build_trainer", "pairs_of_steps", "push", "run_trainer", "save_trained"]

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from jaxtyping import Float
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ropo.core.errors import RunStoppedError, UserError
from ropo.core.intervals import bootstrap_interval
from ropo.diagnostics.behaviour import dpo_margins
from ropo.training.callbacks.metrics_file import MetricsFile
from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.sequence import sharers
from ropo.training.trainer import PreferenceTrainer


def build_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferenceConfig,
    adapter: PeftConfig | None,
    reference: PreTrainedModel | None,
    pairs: Dataset,
    held_out: Dataset | None,
) -> PreferenceTrainer:
    """Build a trainer without console output of its own, which keeps a journal in `config.output_dir`.

    Args:
        model: The model to train, or one with an adapter to train further.
        tokenizer: Its tokenizer.
        config: The trainer's options.
        adapter: The adapter to put on the model; None for full fine-tuning, or to train the adapter it has.
        reference: The frozen reference of full fine-tuning; with an adapter it is the model without that.
        pairs: Training pairs.
        held_out: Held-out pairs, or None.

    Raises:
        UserError: If the options or the adapter do not go with the model or the data.
    """
    if held_out is not None:
        _check_measurable(config)
    with _refusing(config):
        trainer = PreferenceTrainer(
            model=model,
            ref_model=reference,
            args=config,
            train_dataset=pairs,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(MetricsFile(Path(str(config.output_dir))))
    return trainer


def _check_measurable(config: PreferenceConfig) -> None:
    """Refuse options that keep from us the log-probs by which held-out pairs are measured."""
    for name, free in (("eval_do_concat_batches", True), ("prediction_loss_only", False)):
        if getattr(config, name) is not free:
            raise UserError(
                f"{name}: must be {free} where held-out pairs are measured, by the log-probs of all of them, "
                f"got {getattr(config, name)}; leave it out, or give no --eval_data"
            )


@contextmanager
def _refusing(config: PreferenceConfig) -> Iterator[None]:
    """Turn what the libraries raise about options, while a trainer is made, into the user's error."""
    try:
        yield
    except UserError:
        raise
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:  # the repository is made with the trainer
        if not config.push_to_hub:
            raise
        raise UserError(
            f"push_to_hub: the hub refuses or cannot be reached ({error}); log in with `hf auth login`, or leave the "
            "option out and upload the output folder later"
        ) from error


def run_trainer(trainer: PreferenceTrainer, safekeeping: Safekeeping, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train, measuring the held-out pairs before and after.

    Args:
        trainer: From `build_trainer`.
        safekeeping: What saves now and then, and stops the run on a signal.
        checkpoint: The checkpoint to go on from; None to start from the beginning.

    Returns:
        What `transformers.Trainer.train` measured, the last logged values under `last`, the number of different pairs
        that its steps took under `pairs`, the run time in seconds, and with held-out pairs `held_out` as in
        `held_out_metrics`.

    Raises:
        RunStoppedError: If a signal ended training.
        UserError: If the weights are not finite at the end: no loss was computed from them any more.
    """
    started = time.monotonic()
    at_start = _AtStart(trainer)
    if trainer.holders.are_sharded:  # nothing is sharded, and nothing can be measured, before training has begun
        trainer.add_callback(at_start)
        trainer.keep_in_checkpoints("held_out", at_start)  # when a run goes on, it begins with a trained policy
    else:
        at_start.on_train_begin()
    trainer.add_callback(safekeeping)
    with safekeeping:
        result = trainer.train(resume_from_checkpoint=checkpoint)
    if safekeeping.stopped:
        raise RunStoppedError(
            f"stopped by {safekeeping.heard_name} after step {result.global_step} of {trainer.state.max_steps}, which "
            "is saved; give the same command with --resume to go on"
        )
    trainer.check_weights()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = {**result.metrics, "steps": result.global_step, "last": logged[-1] if logged else {}}
    trained_on: Any = trainer.train_dataset
    metrics["pairs"] = min(pairs_of_steps(trainer.args, result.global_step), len(trained_on))
    if at_start.log_probs is not None:
        metrics["held_out"] = held_out_metrics(at_start.log_probs, _log_probs(trainer), trainer.beta)
    return {**metrics, "seconds": time.monotonic() - started}


def held_out_metrics(
    before: Float[np.ndarray, "pairs 2"], after: Float[np.ndarray, "pairs 2"], beta: float
) -> dict[str, Any]:
    """Summarise held-out pairs before and after training.

    Args:
        before: Summed log-probs of the policy at the start, which is the reference; columns chosen, rejected.
        after: Those at the end.
        beta: As in `ropo.diagnostics.behaviour.dpo_margins`.

    Returns:
        `margin` with its 95 % interval (None for one pair) and `margins` pair by pair; `loss`, the mean DPO loss
        -log sigmoid(margin), which is ln 2 at the start; `accuracy`, the share of pairs with a margin above 0; mean
        log-probs before and after; and `prefers_chosen`, the share of pairs whose chosen answer is the likelier one,
        before and after.
    """
    margins = dpo_margins(torch.from_numpy(after), torch.from_numpy(before), beta).numpy()
    return {
        "pairs": len(margins),
        "loss": float(np.logaddexp(0.0, -margins).mean()),
        "margin": float(margins.mean()),
        "margin_interval": bootstrap_interval(margins) if len(margins) > 1 else None,
        "accuracy": float((margins > 0).mean()),
        "chosen_before": float(before[:, 0].mean()),
        "chosen_after": float(after[:, 0].mean()),
        "rejected_before": float(before[:, 1].mean()),
        "rejected_after": float(after[:, 1].mean()),
        "prefers_chosen_before": float((before[:, 0] > before[:, 1]).mean()),
        "prefers_chosen_after": float((after[:, 0] > after[:, 1]).mean()),
        "margins": margins.tolist(),
    }


def pairs_of_steps(args: PreferenceConfig, steps: int) -> int:
    """Return how many pairs that many optimizer steps take, of all processes together."""
    return steps * args.train_batch_size * args.gradient_accumulation_steps * sharers(args)


class _AtStart(TrainerCallback):
    """Measure the held-out pairs when training begins."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self.trainer = trainer
        self.log_probs: Any = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Measure, unless a checkpoint has told."""
        if self.log_probs is None:
            self.log_probs = _log_probs(self.trainer)

    def counters(self) -> dict[str, Any]:
        """Return the log-probs."""
        return {"log_probs": None if self.log_probs is None else torch.from_numpy(self.log_probs)}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        kept = counters["log_probs"]
        self.log_probs = None if kept is None else kept.numpy()


def save_trained(trainer: PreferenceTrainer, folder: Path) -> None:
    """Save the adapter, or the whole model, and the tokenizer.

    The copy of an adapter that TRL keeps as reference while training continues is not part of the result.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        model.delete_adapter("ref")
    trainer.save_model(str(folder))


def push(trainer: PreferenceTrainer, console: Any) -> None:
    """Upload the output folder; what was trained stays here where that fails, which is said."""
    try:
        trainer.push_to_hub()
    except (OSError, HfHubHTTPError) as error:  # requests' and httpx's errors of connections among them
        reason = " ".join(str(error).split())
        console.print(f"warning   push_to_hub: failed ({reason:.200}); upload the folder later with `hf upload`")


def _log_probs(trainer: PreferenceTrainer) -> Any:
    """Return the policy's log-probs of the held-out answers, (pairs, 2): chosen, rejected."""
    held_out: Any = trainer.eval_dataset
    if held_out is None:
        return None
    log_probs = trainer.predict(held_out).predictions
    trainer._metrics["eval"].clear()  # or the next evaluation during training would log these batches as its own
    return log_probs
