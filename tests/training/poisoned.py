"""Trainers of a model with a word whose embedding is NaN."""

from __future__ import annotations

import math

import torch
from datasets import Dataset
from peft import LoraConfig

from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import VOCABULARY, tiny_model, tiny_tokenizer

POISON = f"w{VOCABULARY - 7}"  # the last word, whose embedding is NaN
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def pairs(count: int, poisoned: tuple[int, ...] = ()) -> Dataset:
    """Draw pairs without the poison, but for those with it in their chosen answer."""
    rows = [{"prompt": f"w{i} w{i + 1} ", "chosen": f"w{i + 2} w3", "rejected": f"w{i + 4}"} for i in range(count)]
    for index in poisoned:
        rows[index]["chosen"] = f"w1 {POISON} w2"
    return Dataset.from_list(rows)


def trainer_of(folder, data, model=None, **changes) -> PreferenceTrainer:
    model = tiny_model() if model is None else model
    with torch.no_grad():
        model.get_input_embeddings().weight[VOCABULARY - 1] = math.nan
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_nan_inf_filter": False,
        **changes,
    }
    return PreferenceTrainer(
        model,
        args=PreferenceConfig(**options),
        train_dataset=data,
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )
