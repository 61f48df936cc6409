"""Trainers with remedies on the tiny model, packed and padded."""

from __future__ import annotations

from typing import Any

import torch
from peft import HRAConfig, LoraConfig, OFTConfig

from ropo import RopoConfig
from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.trainers import logged, options

TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
METHODS = {
    "ropo": lambda: RopoConfig(**TARGETS),
    "lora": lambda: LoraConfig(r=4, **TARGETS),
    "oft": lambda: OFTConfig(oft_block_size=4, **TARGETS),
    "hra": lambda: HRAConfig(r=4, **TARGETS),
    "full": lambda: None,
}


def make(folder: Any, method: str = "lora", model: Any = None, held_out: Any = None, **changes: Any) -> Any:
    """Build a trainer whose steps are large enough to tell losses apart."""
    torch.manual_seed(0)
    full = method == "full" and not changes.get("precompute_ref_log_probs")
    rate = {"full": 1e-3, "lora": 5e-2, "ropo": 3e-2}.get(method, 1e-2)
    return PreferenceTrainer(
        tiny_model() if model is None else model,
        ref_model=tiny_model() if full else None,
        args=PreferenceConfig(**options(folder, **{"max_steps": 4, "learning_rate": rate, **changes})),
        train_dataset=tiny_pairs(24),
        eval_dataset=held_out,
        processing_class=tiny_tokenizer(),
        peft_config=METHODS[method]() if model is None else None,
    )


def moved(trainer: Any) -> Any:
    """Move the trained LoRA weights, so that the policy is not the reference when training begins."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return trainer


def losses(trainer: Any) -> list[float]:
    """Train, and return the loss of every step."""
    trainer.train()
    return logged(trainer, "loss")


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Copy what is trained."""
    return {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two states are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
