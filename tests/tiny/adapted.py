"""Tiny random models of several architectures."""

from __future__ import annotations

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ropo.adapter.layer import RopoLinear

VOCABULARY = 64


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def tiny_qwen2(seed: int = 0) -> PreTrainedModel:
    """Its query and value projections have biases, which are random here (they are zero after construction)."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=40,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
    )
    return _with_biases(Qwen2ForCausalLM(config)).eval()


def tiny_gpt2(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        n_embd=36, n_layer=2, n_head=3, vocab_size=VOCABULARY, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return _with_biases(GPT2LMHeadModel(config)).eval()


def _with_biases(model: PreTrainedModel) -> PreTrainedModel:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))


def layers(model: torch.nn.Module) -> list[RopoLinear]:
    """Return the adapted layers of a tiny model with the usual targets."""
    found = [module for module in model.modules() if isinstance(module, RopoLinear)]
    assert len(found) == 4
    return found


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens()).logits


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


PAIRS = Dataset.from_list(
    [
        {"prompt": "the cat sat ", "chosen": "on the mat .", "rejected": "ran fast ."},
        {"prompt": "one two ", "chosen": "three", "rejected": "no ."},
    ]
    * 8
)
