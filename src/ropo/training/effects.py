"""Options that change nothing by themselves: of a loss, a schedule or a strategy that is not chosen."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from ropo.core.errors import UserError
from ropo.training.remedies.options import OWN_LOSSES

SMOOTHED_LOSSES = ("exo_pair", "robust", "aot", "aot_unpaired", *OWN_LOSSES)
_LEAVE_OUT = "leave it out"
# Options that do what they say only beside others: their names, when they do, the rule, the mend. Passed over is what
# changes neither training nor what is measured and kept: memory, speed, uploads.
_EFFECTS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str, str], ...] = (
    (
        ("bf16_full_eval", "fp16_full_eval"),
        lambda config: False,
        "would narrow the weights before they are trained, where held-out pairs are measured at the start",
        "give --bf16 or --dtype",
    ),
    (
        ("label_smoothing",),
        lambda config: bool(_losses(config) & set(SMOOTHED_LOSSES)),
        f"is read by the losses {', '.join(SMOOTHED_LOSSES)} only",
        "give --loss_type cdpo for a sigmoid loss with it, or leave it out",
    ),
    (
        ("label_smoothing_factor",),
        lambda config: False,
        "is of losses on classes, and no loss of pairs reads it",
        "give label_smoothing with --loss_type cdpo",
    ),
    (("simpo_gamma",), lambda config: "simpo" in _losses(config), "is read by the loss simpo only", _LEAVE_OUT),
    (("discopop_tau",), lambda config: "discopop" in _losses(config), "is read by the loss discopop only", _LEAVE_OUT),
    (
        ("f_divergence_type", "ld_alpha", "beta_final"),
        lambda config: _losses(config) != {"sft"},
        "is not read by the loss sft",
        "give another loss, or leave it out",
    ),
    (
        ("f_alpha_divergence_coef",),
        lambda config: config.f_divergence_type == "alpha_divergence",
        "is read with --f_divergence_type alpha_divergence only",
        _LEAVE_OUT,
    ),
    (
        ("ref_model_mixup_alpha", "ref_model_sync_steps"),
        lambda config: config.sync_ref_model,
        "is of a reference that moves",
        "give --sync_ref_model, or leave it out",
    ),
    (
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_delay"),
        lambda config: config.eval_strategy != "no",
        "needs evaluation during training",
        "give --eval_strategy steps or epoch, with --eval_data, or leave it out",
    ),
    (
        ("eval_steps",),
        lambda config: config.eval_strategy == "steps",
        "needs evaluation every so many steps",
        "give --eval_strategy steps, or leave it out",
    ),
    (
        ("save_steps",),
        lambda config: config.save_strategy == "steps",
        "needs checkpoints every so many steps",
        "give --save_strategy steps, or leave it out",
    ),
    (
        ("warmup_steps",),
        lambda config: config.lr_scheduler_type not in ("constant", "reduce_lr_on_plateau", "greedy"),
        "is not read by this lr_scheduler_type",
        "give another, such as constant_with_warmup, or leave it out",
    ),
    (
        ("lr_scheduler_kwargs",),
        lambda config: config.lr_scheduler_type not in ("constant", "constant_with_warmup"),
        "is not read by this lr_scheduler_type",
        "give another, such as cosine, or leave it out",
    ),
    (
        ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        lambda config: config.dataloader_num_workers > 0,
        "is of processes that load data",
        "give --dataloader_num_workers, or leave it out",
    ),
)


def check_effects(config: Any) -> None:
    """Raise `UserError` for an option that would change nothing, or something else than it says.

    Args:
        config: A `ropo.PreferenceConfig`, its options as they were given.
    """
    given = [each.name for each in fields(config) if getattr(config, each.name) != _default_of(each)]
    for names, holds, rule, mend in _EFFECTS:
        for name in names:
            if name in given and not holds(config):
                value = getattr(config, name)
                raise UserError(f"{name}: {rule}{'' if value is True else f', got {value}'}; {mend}")


def _losses(config: Any) -> set[str]:
    return {config.loss_type} if isinstance(config.loss_type, str) else set(config.loss_type)


def _default_of(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
