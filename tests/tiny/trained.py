"""Tiny models of the families that are trained in packs, with a tokenizer and pairs."""

from __future__ import annotations

import copy
import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 64
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = 5  # smaller than the sequences and than some prompts
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "gemma2": Gemma2Config(
        **SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, attn_logit_softcapping=2.0
    ),
    "gemma3": Gemma3TextConfig(
        **SHAPE,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt2": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0
    ),
}
WORDS = [f"w{number}" for number in range(VOCABULARY - 6)]
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tiny_model(name: str = "llama", seed: int = 0) -> PreTrainedModel:
    """Build a random model whose weights are large enough for attention to matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer with a chat template."""
    specials = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def sentence(generator: random.Random, words: int) -> str:
    """Draw words."""
    return " ".join(generator.choice(WORDS) for _ in range(words))


def tiny_pairs(count: int, seed: int = 0) -> Dataset:
    """Draw conversational preference pairs of varied lengths; every fourth repeats the prompt before it."""
    generator = random.Random(seed)
    rows: list[dict] = []
    for index in range(count):
        prompt = [{"role": "user", "content": sentence(generator, generator.randint(1, 12))}]
        if index % 4 == 3:
            prompt = rows[-1]["prompt"]
        answers = {
            name: [{"role": "assistant", "content": sentence(generator, generator.randint(1, 14))}]
            for name in ("chosen", "rejected")
        }
        rows.append({"prompt": prompt, **answers})
    return Dataset.from_list(rows)
