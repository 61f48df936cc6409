"""The options of packed preference training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate.utils import parse_flag_from_env
from trl import DPOConfig

from ropo.core.errors import UserError


@dataclass
class PreferenceConfig(DPOConfig):
    """Set the options of `PreferenceTrainer`: every option of `trl.DPOConfig`, and those of packing.

    Unlike there, gradient checkpointing is off unless asked for, bf16 is on only on a CUDA device and without
    DeepSpeed, and pinned memory is used only where there is an accelerator to copy to.

    Args:
        packing: Compute each batch without padding and every shared prompt once; off, batches are padded as TRL does.
        tokens_per_step: Most tokens in one forward and backward pass. A batch with more is cut into several packs that
            are recomputed in the backward pass, so that only one pack's activations are in memory, at the cost of one
            more forward pass. A record longer than this on its own is skipped, with a line that names it. None sets no
            limit: each device's batch is one pack.
        skip_non_finite: Leave out an optimizer step whose loss or gradient is NaN or infinite, with a line that names
            its records; off, such a step stops the run. Ten in a row stop it in any case.

    Raises:
        UserError: If an option breaks its rule.
    """

    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass, to save memory."}
    )
    dataloader_pin_memory: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Use pinned memory in the data loader. Default: where a GPU is present."}
    )
    packing: bool = field(
        default=True, metadata={"help": "Compute batches without padding and every shared prompt once."}
    )
    tokens_per_step: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens in one forward and backward pass; larger batches are cut into several packs, and "
            "records that are longer on their own are skipped. Default: no limit."
        },
    )
    skip_non_finite: bool = field(
        default=False,
        metadata={"help": "Leave out a step whose loss or gradient is not finite, and say so, rather than stop."},
    )

    def __post_init__(self) -> None:
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            # DeepSpeed would round the adapter with the rest
            deepspeed = bool(self.deepspeed) or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
            self.bf16 = on_gpu and torch.cuda.is_bf16_supported() and not self.fp16 and not deepspeed
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # transformers computes in bfloat16 on a CPU only when told that the CPU is meant
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = on_gpu
        super().__post_init__()
        self._require("beta", self.beta > 0, "must be above 0", "0.1 is usual")
        self._require("learning_rate", self.learning_rate >= 0, "must not be negative", "1e-6 to 1e-3 are usual")
        self._require(
            "max_length",
            self.max_length is None or self.max_length >= 2,
            "must leave room for a prompt and an answer token",
            "give 2 or more, or leave it out for no truncation",
        )
        self._require(
            "tokens_per_step",
            self.tokens_per_step is None or self.tokens_per_step >= 2,
            "must leave room for at least one answer token each",
            "give 2 or more, or leave it out for no limit",
        )
        self._require("label_smoothing", 0 <= self.label_smoothing < 0.5, "must be in [0, 0.5)", "0 for no smoothing")
        self._require(
            "ld_alpha",
            self.ld_alpha is None or 0 <= self.ld_alpha <= 1,
            "must be in [0, 1]",
            "leave it out for plain DPO",
        )

    def _require(self, name: str, holds: bool, rule: str, mend: str) -> None:
        if not holds:
            raise UserError(f"{name}: {rule}, got {getattr(self, name)}; {mend}")
