"""What one training run is told, checked where it enters, and the trainer's configuration that it leads to."""

from __future__ import annotations

__all__ = ["DTYPES", "MONITOR_STEPS", "TRAINER_DEFAULTS", "TrainOptions", "trainer_config"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.remedies.kl_budget import check_budget

DTYPES = ("auto", "float32", "bfloat16", "float16")

# What replaces TRL's defaults. Checkpoints in the output only on request; a hundred log lines per run; a NaN shown as a
# NaN; no search of every step's graph for parameters without gradient, which adapters do not have; and the progress of
# reference log-probs, which transformers hides where its notices are (`quiet_libraries`).
TRAINER_DEFAULTS: dict[str, Any] = {"logging_steps": 0.01, "save_strategy": "no", "logging_nan_inf_filter": False}
TRAINER_DEFAULTS |= {"ddp_find_unused_parameters": False, "disable_tqdm": False}

MONITOR_STEPS = 100
_RESUME_CHECKPOINTS = 2  # the last, and one to fall back on

_POSITIVE = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)


@dataclass(frozen=True)
class TrainOptions:
    """The checked options of one run.

    Attributes:
        model: Hub id, folder, `.gguf` file, or adapter to train further.
        data: Source of the training pairs.
        split: Its split.
        eval_data: Source of the held-out pairs, or None.
        eval_split: Its split.
        plain_prompts: Whether text prompts stay as they are, past the chat template.
        skip_long_prompts: Whether pairs whose prompt fills `max_length` are left out rather than refused.
        output: The folder to make.
        overwrite: Whether an earlier output there may be replaced.
        resume: Whether an unfinished run there is carried on.
        method: A name in `ropo.methods.METHODS`, or None where none was given.
        dtype: Dtype of the weights by name, or "auto".
        bits: 4 or 8 where the frozen weights are quantised, or None.
        plan: Whether to say what would be trained, and what memory it takes, and to stop there.
        monitor_steps: Steps from one measurement of the monitor to the next; 0 for no monitor.
        monitor_text: File of plain text for it, or None.
        stop_on_warning: Whether its first warning ends training.
        stop_at_kl: Nats a token of KL(policy || reference) that end training, or None.
        adapter: The adapter options that were given.
        trainer: The options of `PreferenceConfig` that were given, by name.

    Raises:
        UserError: If two of them exclude each other, or one breaks its rule.
    """

    model: str
    data: str
    output: Path
    split: str = "train"
    eval_data: str | None = None
    eval_split: str = "test"
    plain_prompts: bool = False
    skip_long_prompts: bool = False
    overwrite: bool = False
    resume: bool = False
    method: str | None = None
    dtype: str = "auto"
    bits: int | None = None
    plan: bool = False
    monitor_steps: int = MONITOR_STEPS
    monitor_text: Path | None = None
    stop_on_warning: bool = False
    stop_at_kl: float | None = None
    adapter: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything is loaded."""
        for name, given in (
            ("overwrite", self.overwrite),
            ("resume_from_checkpoint", self.trainer.get("resume_from_checkpoint")),
        ):
            if self.resume and given:
                raise UserError(f"resume: cannot be combined with --{name}; leave one of them out")
        if self.bits and self.method == "full":
            raise UserError(f"load_in_{self.bits}bit: quantised weights cannot be trained; choose another --method")
        if self.monitor_steps < 0:
            raise UserError(f"monitor_steps: must not be negative, got {self.monitor_steps}; give 0 for no monitor")
        if self.stop_at_kl is not None:
            check_budget(self.stop_at_kl)
        for name in ("monitor_text", "stop_on_warning", "stop_at_kl"):
            if getattr(self, name) and not self.monitors:
                raise UserError(f"{name}: the monitor is off; give --eval_data, and no --monitor_steps 0")
        if self.monitor_text is not None and not self.monitor_text.is_file():
            raise UserError(f"monitor_text: there is no file {self.monitor_text}; name a UTF-8 text file")

    @property
    def monitors(self) -> bool:
        """Whether the monitor is wanted, and has held-out pairs to watch."""
        return self.monitor_steps > 0 and self.eval_data is not None

    @property
    def resumes(self) -> bool:
        """Whether an unfinished run is carried on."""
        return self.resume or self.trainer.get("resume_from_checkpoint") is not None

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether checkpoints are part of the output; else they serve to resume, and go when the run is done."""
        return "save_strategy" in self.trainer


def trainer_config(options: TrainOptions, learning_rate: float, output: Path) -> PreferenceConfig:
    """Return the trainer's configuration.

    Args:
        options: The run's options.
        learning_rate: The rate to take where none was given.
        output: Folder for checkpoints.

    Raises:
        UserError: If a value breaks its rule.
    """
    checkpoint = options.trainer.get("resume_from_checkpoint")
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise UserError(f"resume_from_checkpoint: there is no folder {checkpoint}; name a checkpoint-N folder")
    if options.trainer.get("model_init_kwargs") is not None:
        raise UserError("model_init_kwargs: has no effect, as ropo loads the model itself; use --dtype")
    kept = {} if options.keeps_checkpoints else {"save_total_limit": _RESUME_CHECKPOINTS}
    settings = {
        **TRAINER_DEFAULTS,
        **kept,
        "learning_rate": learning_rate,
        **options.trainer,
        "output_dir": str(output),
    }
    try:
        config = PreferenceConfig(**settings)
    except UserError:
        raise
    except Exception as error:  # nothing is computed there: whatever the libraries raise is about an option
        raise UserError(f"options: {error}") from error
    for name in _POSITIVE:
        if getattr(config, name) <= 0:
            raise UserError(f"{name}: must be above 0, got {getattr(config, name)}; give a positive number")
    return config
