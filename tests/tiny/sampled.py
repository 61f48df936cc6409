"""A tiny random model with a tiny tokenizer, whose answers end at once or later."""

from __future__ import annotations

import json

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from ropo.lm.sampling import PromptRecord, sampler
from tests.tiny.tokenizer import tiny_tokenizer

TEXTS = ("the cat sat", "a dog ran on the mat", "yes", "two fast cat", "no no no slow dog", "three", "one mat .")


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,  # far from uniform, so that the next token depends on what came before
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def save_tiny(folder) -> str:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def sampled_batches(monkeypatch) -> list[int]:
    """Return a list that the numbers of the batches go into that are sampled from now on."""
    sampled, sample = [], sampler.sample_batches

    def watched(*arguments):
        for batch in sample(*arguments):
            sampled.append(batch.number)
            yield batch

    monkeypatch.setattr(sampler, "sample_batches", watched)
    return sampled


def tiny_prompts(texts=TEXTS) -> list[PromptRecord]:
    return [
        PromptRecord({"prompt": text}, [{"role": "user", "content": text}], line)
        for line, text in enumerate(texts, start=1)
    ]


def write_prompts(path, texts=TEXTS, **fields):
    path.write_text("".join(json.dumps({"prompt": text, **fields}) + "\n" for text in texts), encoding="utf-8")
    return path


def save_adapter(base: str, folder) -> str:
    torch.manual_seed(0)
    policy = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    policy.peft_config["default"].base_model_name_or_path = base
    policy.save_pretrained(folder)
    return str(folder)
