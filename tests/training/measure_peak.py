"""Train a model of some shape for two steps and print what memory it took; run by test_memory.py, a process each.

measure_peak.py SHAPE METHOD DTYPE CHECKPOINTING PROMPT CHOSEN REJECTED PAIRS
"""

import ctypes
import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig

from ropo import PreferenceConfig, PreferenceTrainer, RopoConfig
from tests.tiny.trained import WORDS, tiny_tokenizer


def resident(name: str) -> int:
    """Return a number of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Train, with the peak counted from just before the model is made."""
    shape, method, dtype, checkpointing = (json.loads(each) for each in sys.argv[1:5])
    prompt, chosen, rejected, pairs = map(int, sys.argv[5:])
    rows = [
        {
            name: " ".join(WORDS[(row + place) % len(WORDS)] for place in range(count)) + " "
            for name, count in (("prompt", prompt), ("chosen", chosen - 1), ("rejected", rejected - 1))
        }
        for row in range(pairs)
    ]
    torch.ones(8, 8).requires_grad_().matmul(torch.ones(8, 8)).sum().backward()  # what is loaded on first use
    with tempfile.TemporaryDirectory() as folder:
        args = PreferenceConfig(
            folder,
            per_device_train_batch_size=pairs,
            max_steps=3,
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=checkpointing,
            save_strategy="no",
            disable_tqdm=True,
        )
        adapter = {"ropo": RopoConfig(), "lora": LoraConfig(r=8, target_modules=["q_proj", "v_proj"])}.get(method)

        def trainer(config: LlamaConfig, data: list) -> PreferenceTrainer:
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
            return PreferenceTrainer(
                model,
                ref_model=None if adapter else AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)),
                args=args,
                train_dataset=Dataset.from_list(data),
                processing_class=tiny_tokenizer(),
                peft_config=adapter,
            )

        few = LlamaConfig(
            **{**shape, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
        )
        short = [{name: value[:20] for name, value in row.items()} for row in rows]
        trainer(few, short).train()  # libraries, kernels, threads: all that is not the model's
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        trainer(LlamaConfig(**shape), rows).train()
        print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
