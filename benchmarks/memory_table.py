"""Print how much memory training takes, by model and setting: by arithmetic on shapes, without a GPU.

    python benchmarks/memory_table.py [--pairs 8] [--prompt 109 --answer 340]

Default pairs are as long as UltraFeedback's medians. CUDA itself takes about half a GB more, and the allocator some.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ropo import RopoConfig
from ropo.training.memory import Lengths, estimate

LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
MODELS = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
    "3B": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
SETTINGS = {
    "bf16": (False, None),
    "bf16, checkpointing": (True, None),
    "8 bits, checkpointing": (True, 8),
    "4 bits, checkpointing": (True, 4),
}


def main() -> None:
    """Print a table for docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=109)
    parser.add_argument("--answer", type=int, default=340)
    arguments = parser.parse_args()
    pairs = [Lengths(arguments.prompt, arguments.answer, arguments.answer)] * arguments.pairs
    print(f"| {sum(each.packed for each in pairs):,} tokens at once | " + " | ".join(SETTINGS) + " |")
    print("|---" * (len(SETTINGS) + 1) + "|")
    for name, shape in MODELS.items():
        row = []
        for checkpointing, bits in SETTINGS.values():
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(LlamaConfig(**{**LLAMA, **shape}), dtype=torch.bfloat16)
            memory = estimate(model, RopoConfig(), pairs, "cuda", torch.bfloat16, checkpointing, bits=bits)
            row.append(f"{memory.total / 1e9:.1f}")
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
