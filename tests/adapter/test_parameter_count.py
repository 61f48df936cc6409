"""Trainable parameters at real sizes, on the meta device."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ropo import RopoConfig

LLAMA_3_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
MISTRAL_7B = MistralConfig()
QWEN2_5_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    tie_word_embeddings=False,
)


def trainable(model_class, config, **options) -> tuple[int, int]:
    with torch.device("meta"):
        return get_peft_model(model_class(config), RopoConfig(**options)).get_nb_trainable_parameters()


@pytest.mark.parametrize(
    ("options", "count", "percent"), [({}, 1_212_288, 0.0151), ({"reflections": 0}, 688_000, 0.0086)]
)
def test_llama_3_8b_has_the_papers_share(options, count, percent) -> None:
    ours, total = trainable(LlamaForCausalLM, LLAMA_3_8B, **options)
    assert ours == count
    assert round(100 * ours / total, 4) == percent


@pytest.mark.parametrize(("model_class", "config"), [(MistralForCausalLM, MISTRAL_7B), (Qwen2ForCausalLM, QWEN2_5_7B)])
@pytest.mark.parametrize("reflections", [2, 0])
def test_counts_follow_the_formula(model_class, config, reflections) -> None:
    """2 (d - 1) + k d + n for each of the query and value projections."""
    width = config.hidden_size
    neurons = width + width // config.num_attention_heads * config.num_key_value_heads
    expected = config.num_hidden_layers * (2 * (2 * (width - 1) + reflections * width) + neurons)
    assert trainable(model_class, config, reflections=reflections)[0] == expected
