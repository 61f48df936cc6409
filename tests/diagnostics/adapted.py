"""Adapters of every method on a tiny model."""

from __future__ import annotations

import torch
from peft import HRAConfig, LoraConfig, OFTConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

from ropo import RopoConfig
from tests.tiny.adapted import tiny_llama

TARGETS = ["q_proj", "v_proj"]
CONFIGS = {
    "ropo": lambda: RopoConfig(target_modules=TARGETS, init_weights=False),
    "lora": lambda: LoraConfig(target_modules=TARGETS, r=4, init_lora_weights=False),
    "dora": lambda: LoraConfig(target_modules=TARGETS, r=4, init_lora_weights=False, use_dora=True),
    "oft": lambda: OFTConfig(target_modules=TARGETS, oft_block_size=8, use_cayley_neumann=False, init_weights=False),
    "hra": lambda: HRAConfig(target_modules=TARGETS, r=4, init_weights=False),
}


def adapted(config: PeftConfig, model: nn.Module | None = None) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(tiny_llama() if model is None else model, config).eval()
