"""Check what `PreferenceTrainer` is given, before anything is loaded or computed for it."""

from __future__ import annotations

__all__ = ()

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftType
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, get_scheduler

from ropo.core.errors import UserError
from ropo.lm.adapters import is_adapter
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.sequence import sharers
from ropo.training.reference import check_active, has_adapter

logger = logging.getLogger(__name__)

_UNCHANGING_STARTS = ("gaussian", "orthogonal", "eva")  # PEFT's `init_lora_weights` that leave the base model as it is
_OF_OPTIMIZERS = ("optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon")
_MADE_OF_THE_MODEL = {"params", "model", "optimizer_dict"}  # an optimizer's arguments; it is not asked for twice


def check_arguments(model: Any, ref_model: Any, config: PreferenceConfig, others: Mapping[str, Any]) -> None:
    """Refuse combinations that cannot be trained, or that would train something else than they say.

    Args:
        model: The model, or its name.
        ref_model: The reference, or None.
        config: The options.
        others: Every other argument of `trl.DPOTrainer`.
    """
    data = others.get("train_dataset")
    if isinstance(data, Dataset) and not len(data):
        raise UserError("train data: holds no record; give at least one")
    _check_evaluation(config, others)
    _check_checkpointing(config)
    _warn_of_fixed_ranks(others.get("peft_config"))
    if isinstance(model, str):
        _check_name(model, None if ref_model is not None else others.get("peft_config"))
    adapted = has_adapter(model) or others.get("peft_config") is not None
    if ref_model is not None and (isinstance(ref_model, str) or has_adapter(ref_model)):
        what = "a name" if isinstance(ref_model, str) else "an adapter on a model"
        raise UserError(
            f"ref_model: must be a model, not {what}; load it, and merge its adapter (merge_and_unload), or leave it "
            "out: the reference is then the model that training starts from"
        )
    if has_adapter(model) and others.get("peft_config") is None and ref_model is None:
        check_active(model)
    if getattr(model, "_hf_peft_config_loaded", False) and not has_adapter(model):
        raise UserError(
            "model: transformers has put an adapter into it, which would be frozen while everything else is trained; "
            "load it with peft.PeftModel.from_pretrained(base, folder, is_trainable=True)"
        )
    if config.sync_ref_model and adapted and ref_model is not None:
        raise UserError(
            "sync_ref_model: an adapter's reference that moves is a copy of the adapter, and not the ref_model that "
            "was given; leave one of them out"
        )


def _check_evaluation(config: PreferenceConfig, others: Mapping[str, Any]) -> None:
    """Refuse options of an evaluation that has nothing to evaluate, or of metrics that nobody computes."""
    if config.eval_on_start and others.get("eval_dataset") is None:
        raise UserError("eval_on_start: there is nothing to evaluate; give eval_dataset (--eval_data), or leave it out")
    for name in ("batch_eval_metrics", "include_for_metrics"):
        if getattr(config, name) and others.get("compute_metrics") is None:
            raise UserError(
                f"{name}: is for compute_metrics, and there is none, got {getattr(config, name)}; leave it out, or "
                "give one to PreferenceTrainer"
            )


def _check_name(name: str, adapter: Any) -> None:
    """Refuse the name of what TRL loads no model from, and a new adapter that would change the reference."""
    if is_adapter(name):
        raise UserError(
            f"model {name}: is an adapter, and TRL loads models alone; load it with "
            "peft.PeftModel.from_pretrained(base, folder, is_trainable=True)"
        )
    if Path(name).suffix == ".gguf":
        raise UserError(
            f"model {name}: TRL loads no .gguf file; give `ropo train` its name, or load it with "
            "transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)"
        )
    start = getattr(adapter, "init_lora_weights", True)
    if isinstance(start, str) and start not in _UNCHANGING_STARTS:
        raise UserError(
            f"peft_config: init_lora_weights={start!r} changes the base model, and the reference would not be the "
            "model that is named; give one that starts at the base model (init_lora_weights=True), or pass ref_model"
        )


def _warn_of_fixed_ranks(adapter: Any) -> None:
    if getattr(adapter, "peft_type", None) == PeftType.ADALORA:
        logger.warning(
            f"AdaLoRA: no trainer of TRL's calls update_and_allocate, which moves its ranks, so each layer keeps "
            f"init_r={adapter.init_r}; LoRA says what it trains"
        )


def _check_checkpointing(config: PreferenceConfig) -> None:
    options: Any = config.gradient_checkpointing_kwargs
    if not (config.gradient_checkpointing and options):
        return
    try:
        checkpoint(torch.neg, torch.zeros(1, requires_grad=True), **{"use_reentrant": False, **options})
    except (TypeError, ValueError) as error:
        raise UserError(
            f"gradient_checkpointing_kwargs {options}: {error}; give those of torch.utils.checkpoint, such as "
            "use_reentrant"
        ) from error


def check_run(trainer: Trainer) -> None:
    """Refuse a run that would train nothing.

    Raises:
        UserError: If no weight is trainable, no step is asked for, or no batch is left.
    """
    model: Any = trainer.model
    data: Any = trainer.train_dataset
    config: Any = trainer.args
    if not any(each.requires_grad and "ref" not in name.split(".") for name, each in model.named_parameters()):
        raise UserError(
            "model: none of its weights is trainable; load an adapter with PeftModel.from_pretrained(base, folder, "
            "is_trainable=True), or give peft_config a new one"
        )
    if config.max_steps == 0:
        raise UserError("max_steps: 0 trains nothing; give a number of steps, or leave it out for num_train_epochs")
    pairs = None if isinstance(data, IterableDataset) else len(data)  # of a stream nobody knows it
    batch = config.train_batch_size * sharers(config)
    if config.dataloader_drop_last and pairs is not None and pairs < batch:
        raise UserError(
            f"dataloader_drop_last: {pairs} pairs do not fill one batch of {batch}, and the only batch would be left "
            "out: nothing would be trained; leave it out, or lower --per_device_train_batch_size"
        )


def check_made(trainer: Trainer, given: tuple[Any, Any]) -> None:
    """Refuse what only a trainer that is made can tell: optimizers, experts and orders of pairs that do not suit.

    Args:
        trainer: With its model, data and options.
        given: The optimizer and the schedule that the user has made, or None for each.
    """
    if given[0] is None and not trainer.is_deepspeed_enabled:
        _check_optimizer(trainer)
    if given[1] is None:
        _check_schedule(trainer.args)
    _check_experts(trainer)
    _check_sampling(trainer.args, trainer.train_dataset)


def _check_optimizer(trainer: Trainer) -> None:
    """Refuse an optimizer that cannot be made, which transformers does when training begins, and what it ignores."""
    args: Any = trainer.args
    model: Any = trainer.model
    name = getattr(args.optim, "value", args.optim)
    try:
        kind, options = trainer.get_optimizer_cls_and_kwargs(args, model)
        if kind.__module__.startswith("torch.optim"):
            kind([torch.nn.Parameter(torch.zeros(1))], **options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"optim {name}: cannot be made ({error}); choose another one, such as adamw_torch") from error
    if _MADE_OF_THE_MODEL & set(options):
        return
    for each in _OF_OPTIMIZERS:
        value, default = getattr(args, each), getattr(PreferenceConfig, each)
        if value == default:
            continue
        without = copy.copy(args)
        setattr(without, each, default)
        if trainer.get_optimizer_cls_and_kwargs(without, model) == (kind, options):
            raise UserError(f"{each}: is not read by {name}, got {value}; choose another --optim, or leave it out")


def _check_schedule(args: Any) -> None:
    """Refuse a schedule that cannot be made, or whose learning rate would be negative somewhere."""
    stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate or 1.0)
    name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    try:
        schedule = get_scheduler(args.lr_scheduler_type, stand_in, 1, 10, args.lr_scheduler_kwargs)
        shares = [schedule.lr_lambdas[0](step) for step in range(12)] if isinstance(schedule, LambdaLR) else []
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"lr_scheduler_type {name}: cannot be made with lr_scheduler_kwargs {args.lr_scheduler_kwargs} "
            f"({error}); give it what it needs, or choose another one, such as linear"
        ) from error
    if min(shares, default=0) < 0:
        raise UserError(
            f"lr_scheduler_type {name}: its learning rate must not become negative, got lr_scheduler_kwargs "
            f"{args.lr_scheduler_kwargs}; give others, or leave them out"
        )


def _check_experts(trainer: Any) -> None:
    """Refuse a mixture of experts whose number TRL's load-balancing loss does not find."""
    config = trainer.model.config.get_text_config()
    if trainer.aux_loss_enabled and config.model_type != "gpt_oss" and not hasattr(config, "num_experts"):
        raise UserError(
            f"router_aux_loss_coef: TRL's load-balancing loss does not know a {config.model_type} model's experts; "
            "give 0 to train without that loss"
        )


def _check_sampling(config: Any, data: Any) -> None:
    """Refuse an order of pairs by their length where no column tells it, since a pair has two."""
    strategy, column = config.train_sampling_strategy, config.length_column_name
    if strategy in ("group_by_length", "batch_rebalance") and column not in (getattr(data, "column_names", None) or ()):
        raise UserError(
            f"train_sampling_strategy: {strategy} needs one length a record (a column {column!r}), and a pair has two "
            "answers; leave it out: packs have no padding to save"
        )
