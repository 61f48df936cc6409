"""A tiny random reward model: a sequence classifier with one output, and the tiny tokenizer."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.tiny.tokenizer import tiny_tokenizer


def save_tiny_reward(folder, seed: int = 0, outputs: int = 1) -> str:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=outputs,
        initializer_range=0.3,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def rewards(folder: str, prompt: str, answers) -> list[float]:
    """Score answers one by one, in plain transformers, to check scorers and judges against."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    texts = [f"<user> {prompt} <eos> <assistant> {answer} <eos>" for answer in answers]
    with torch.no_grad():
        return [float(model(tiny_tokenizer()(text, return_tensors="pt").input_ids).logits) for text in texts]
