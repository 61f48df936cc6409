"""Models with random weights in the shapes that people train."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gpu_parts.machine import device

LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def shape(tiny: bool) -> LlamaConfig:
    """Return the shape of Llama-3-8B, or a tiny one."""
    return LlamaConfig(**(TINY if tiny else LLAMA_3_8B), pad_token_id=0, bos_token_id=1, eos_token_id=2)


def random_model(tiny: bool) -> Any:
    """Return a model in bfloat16 on the device, with initial weights: 16 GB in the shape of Llama-3-8B."""
    torch.manual_seed(0)
    with torch.device(device()):
        return AutoModelForCausalLM.from_config(shape(tiny), dtype=torch.bfloat16)
