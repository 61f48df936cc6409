"""The options of packed preference training."""

from __future__ import annotations

__all__ = ["PreferenceConfig"]

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import huggingface_hub
import torch
from accelerate.utils import parse_flag_from_env
from transformers.integrations import integration_utils
from transformers.training_args import OptimizerNames
from transformers.utils import is_liger_kernel_available
from trl import DPOConfig

from ropo.core.errors import UserError
from ropo.core.names import did_you_mean
from ropo.lm.tokens import Limits
from ropo.training.effects import check_effects
from ropo.training.remedies.options import OWN_LOSSES, RemedyOptions, check_remedies

# The names that TRL 1.16 takes; it finds a wrong one only at the first step.
_LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
_SORTING_LOSSES = {"aot", "aot_unpaired"}
_UNWEIGHABLE_LOSSES = {"hinge", "sft"}  # TRL multiplies each pair's loss in place, which PyTorch allows of the others
_TRUNCATIONS = ("keep_start", "keep_end")
_NOT_NEGATIVE = (
    *("weight_decay", "warmup_steps", "adam_epsilon", "max_grad_norm", "seed", "data_seed", "neftune_noise_alpha"),
    *("logging_steps", "save_steps", "eval_steps", "eval_delay", "torch_empty_cache_steps", "dataset_num_proc"),
    "ref_model_sync_steps",
)
_DEFAULT = "leave it out for its default"
# What a number must be, and what to give instead; transformers checks few of them.
_RULES: tuple[tuple[str, Callable[[float], bool], str, str], ...] = (
    *((name, lambda value: value >= 0, "must not be negative", _DEFAULT) for name in _NOT_NEGATIVE),
    *((name, lambda value: 0 <= value < 1, "must be in [0, 1)", _DEFAULT) for name in ("adam_beta1", "adam_beta2")),
    ("max_steps", lambda steps: steps >= -1, "must not be negative", "leave it out for num_train_epochs"),
    ("save_total_limit", lambda limit: limit > 0, "must be above 0", "leave it out to keep all"),
    (
        "eval_accumulation_steps",
        lambda steps: steps > 0,
        "must be above 0",
        "leave it out to keep predictions where they are computed",
    ),
    ("dataloader_num_workers", lambda number: number >= 0, "must not be negative", "0 for none"),
    ("beta", lambda beta: beta > 0, "must be above 0", "0.1 is usual"),
    ("learning_rate", lambda rate: rate >= 0, "must not be negative", "1e-6 to 1e-3 are usual"),
    ("label_smoothing", lambda share: 0 <= share < 0.5, "must be in [0, 0.5)", "0 for no smoothing"),
    ("ld_alpha", lambda alpha: 0 <= alpha <= 1, "must be in [0, 1]", "leave it out for plain DPO"),
    ("ref_model_mixup_alpha", lambda alpha: 0 < alpha <= 1, "must be in (0, 1]", "1 copies the policy"),
    ("ref_model_sync_steps", lambda steps: steps >= 1, "must be at least 1", "512 in TR-DPO's paper"),
    (
        "max_length",
        lambda tokens: tokens >= 2,
        "must leave room for a prompt and an answer token",
        "give 2 or more, or leave it out for no truncation",
    ),
    (
        "tokens_per_step",
        lambda tokens: tokens >= 2,
        "must leave room for at least one answer token each",
        "give 2 or more, or leave it out for no limit",
    ),
)
_LIBRARIES = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}  # as transformers names their checks


@dataclass
class PreferenceConfig(RemedyOptions, DPOConfig):
    """Set the options of `PreferenceTrainer`: every option of `trl.DPOConfig`, those of remedies, and those of packing.

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
        self._check_names()
        self._check_numbers()
        check_effects(self)
        super().__post_init__()
        self._check_inner_numbers()
        self._check_libraries()
        self._check_losses()
        self._check_compiling()
        check_remedies(self)

    @property
    def limits(self) -> Limits:
        """Where sequences are cut."""
        return Limits(self.max_length, self.truncation_mode)

    def _check_names(self) -> None:
        losses = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        check_names("loss_type", losses, (*_LOSSES, *OWN_LOSSES))
        check_names("f_divergence_type", [self.f_divergence_type], _DIVERGENCES)
        check_names("truncation_mode", [self.truncation_mode], _TRUNCATIONS)
        check_names("optim", [getattr(self.optim, "value", self.optim)], [each.value for each in OptimizerNames])

    def _check_numbers(self) -> None:
        """Refuse what is no number that a run could use."""
        for each in fields(self):
            value = getattr(self, each.name, None)
            if isinstance(value, float):
                self._require(each.name, math.isfinite(value), "must be a finite number", _DEFAULT)
        for name, holds, rule, mend in _RULES:
            value = getattr(self, name)
            self._require(name, not isinstance(value, int | float) or holds(value), rule, mend)
        for weight in self.loss_weights or ():
            self._require("loss_weights", 0 < weight < math.inf, "must each be above 0 and finite", "1 is usual")

    def _check_inner_numbers(self) -> None:
        """Refuse numbers inside of options, once these are read, that are not finite."""
        for each in fields(self):
            finite = all(map(math.isfinite, _numbers_in(getattr(self, each.name, None))))
            self._require(each.name, finite, "must hold finite numbers", _DEFAULT)

    def _check_losses(self) -> None:
        """Refuse combinations that TRL refuses when the trainer is made, in words of the options."""
        sorting = sorted(_SORTING_LOSSES & set(self.loss_type))
        self._require(
            "use_weighting",
            not (self.use_weighting and sorting),
            f"cannot be combined with the loss {', '.join(sorting)}, which sorts the pairs",
            "leave one of them out",
        )
        unweighable = sorted(_UNWEIGHABLE_LOSSES & set(self.loss_type)) + ["rpo_alpha"] * (self.rpo_alpha is not None)
        self._require(
            "use_weighting",
            not (self.use_weighting and unweighable),
            f"cannot be combined with {', '.join(unweighable)}, whose loss TRL cannot weigh pair by pair",
            "leave one of them out",
        )
        self._require(
            "label_smoothing",
            "exo_pair" not in self.loss_type or self.label_smoothing > 0,
            "must be above 0 with the loss exo_pair",
            "1e-3 is usual",
        )
        self._require(
            "sync_ref_model",
            not (self.sync_ref_model and self.precompute_ref_log_probs),
            "cannot be combined with precompute_ref_log_probs, which wants a fixed reference",
            "leave one of them out",
        )

    def _check_libraries(self) -> None:
        """Refuse what needs a library, a network or a device that is not there, before a model is loaded for it."""
        for name in [self.report_to] if isinstance(self.report_to, str) else self.report_to or []:
            check_tracker(name)
        self._require(
            "use_liger_kernel",
            not self.use_liger_kernel or is_liger_kernel_available(),
            "needs the library liger-kernel, which is not installed",
            "install it with pip, or leave the option out",
        )
        self._require(
            "push_to_hub",
            not (self.push_to_hub and huggingface_hub.constants.HF_HUB_OFFLINE),
            "cannot be done without the hub, and HF_HUB_OFFLINE is set",
            "unset it, or leave the option out and upload the output folder later",
        )
        self._require(
            "activation_offloading",
            not self.activation_offloading or self.device.type != "cpu",
            "moves activations from an accelerator to the CPU, and there is none here",
            "leave it out; gradient_checkpointing and tokens_per_step save memory on any device",
        )
        self._require(
            "fp16",
            not self.fp16 or self.device.type != "cpu",
            "is not computed in on a CPU, where accelerate keeps float32",
            "give --bf16, or leave it out",
        )

    def _check_compiling(self) -> None:
        compiles = self.torch_compile or self.torch_compile_backend is not None or self.torch_compile_mode is not None
        if compiles and self.packing:
            raise UserError(
                "torch_compile: cannot be combined with packing, each of whose batches would be compiled anew; give "
                "--packing false (packing=False) for TRL's padded batches, or leave it out"
            )

    def _require(self, name: str, holds: bool, rule: str, mend: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise UserError(f"{name}: {rule}{'' if value is True else f', got {value}'}; {mend}")


def _numbers_in(value: Any) -> Iterator[float]:
    """Yield the numbers in lists and mappings, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers_in(each)
    elif isinstance(value, float):
        yield value


def check_names(option: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Raise `UserError` for the first name that is not known, with the nearest one that is."""
    known = list(known)
    for name in given:
        if not isinstance(name, str):
            raise UserError(f"{option}: takes names, not {name!r}; choose from {', '.join(known)}")
        if name not in known:
            hint = did_you_mean(name, known) or f"; choose from {', '.join(known)}"
            raise UserError(f"{option}: there is no {name!r}{hint}")


def check_tracker(name: str) -> None:
    """Raise `UserError` if transformers does not know a tracker, or its library is not installed."""
    if name in ("all", "none"):
        return
    check_names("report_to", [name], [*integration_utils.INTEGRATION_TO_CALLBACK, "all", "none"])
    if not getattr(integration_utils, f"is_{_LIBRARIES.get(name, name)}_available")():
        raise UserError(
            f"report_to: needs the library {name}, which is not installed; install it with pip, or leave the option "
            "out: metrics.jsonl has every number too"
        )
