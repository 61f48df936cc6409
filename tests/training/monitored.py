"""A tiny model that knows the answers of a few pairs, and trainers of it that are monitored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from ropo.training.config import PreferenceConfig
from ropo.training.monitor import HackingMonitor
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.tokenizer import tiny_tokenizer

SENTENCES = "the cat sat on the mat . the dog ran fast . one two three . "
TEXT = SENTENCES * 32  # 15 windows of 32 tokens
PROMPTS = ["the cat", "the dog", "one", "a mat"]
CHOSEN = ["sat on the mat .", "ran fast .", "two three yes no .", "yes a dog sat ."]
REJECTED = ["ran slow .", "sat on a mat .", "three two .", "no the cat ran ."]
LONG = ["sat on the mat . ran fast on two mat yes no"] * 4
SPARE = 63  # a hidden unit that the model does not use
Sequences = list[tuple[list[int], list[int]]]


def chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = Dataset.from_list(
    [
        {"prompt": chat(prompt), "chosen": reply(chosen), "rejected": reply(rejected)}
        for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    * 16  # so many answers per prompt are sampled
)


def answered(answers: list[str]) -> Sequences:
    """Return the token ids of each prompt and of its answer, which ends."""
    tokenizer = tiny_tokenizer()
    starts = [
        tokenizer.apply_chat_template(chat(prompt), add_generation_prompt=True, return_dict=False) for prompt in PROMPTS
    ]
    return [(start, tokenizer(f"{answer} <eos>")["input_ids"]) for start, answer in zip(starts, answers, strict=True)]


CONTEXT, *REST = tiny_tokenizer()(SENTENCES * 5)["input_ids"]
PLAIN: Sequences = [([CONTEXT], REST)]


def loss_of(model: Any, sequences: Sequences) -> Tensor:
    rows = [torch.tensor(start + end) for start, end in sequences]
    labels = [torch.tensor([-100] * len(start) + end) for start, end in sequences]
    return model(
        input_ids=pad_sequence(rows, batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=-100),
    ).loss


def fit(model: Any, steps: int, *weighted: tuple[float, Sequences]) -> Any:
    """Train on a mixture of sequences; a negative weight makes its sequences less likely."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(weight * loss_of(model, sequences) for weight, sequences in weighted).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    """Train a tiny model that gives chosen, rejected and long answers alike, and knows the text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    mixture = [(1.0, answered(answers)) for answers in (CHOSEN, REJECTED, LONG)]
    model = fit(LlamaForCausalLM(config), 250, *mixture, (1.0, PLAIN))
    model.model.layers[0].mlp.down_proj.weight.data[:, SPARE] = 0.0
    return model


def make_trainer(model: Any, folder: Any, config: Any = None, **changes: Any) -> PreferenceTrainer:
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "learning_rate": 1e-6,
        **changes,
    }
    return PreferenceTrainer(
        copy.deepcopy(model),
        ref_model=copy.deepcopy(model) if config is None else None,
        args=PreferenceConfig(**options),
        train_dataset=PAIRS,
        eval_dataset=PAIRS,
        processing_class=tiny_tokenizer(),
        peft_config=config,
    )


def monitored(trainer: Any, **options: Any) -> tuple[HackingMonitor, list[str]]:
    lines: list[str] = []
    options = {"pairs": 64, "layers": 14, "max_new_tokens": 32, "warn": lines.append, **options}
    monitor = HackingMonitor(trainer, text=TEXT, **options)
    trainer.add_callback(monitor)
    return monitor, lines


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]
