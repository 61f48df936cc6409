"""Trainers of the tiny model: ours, and TRL's with the same options."""

from __future__ import annotations

from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from ropo.training.config import PreferenceConfig
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer

STEPS = 20
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
PLAIN = {"bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}  # where TRL's defaults differ


def options(folder, **changes):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": STEPS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }


def make(trainer, config, folder, *, model=None, data=None, lora=True, eval_dataset=None, ref_model=None, **changes):
    plain = PLAIN if config is DPOConfig else {}
    return trainer(
        tiny_model() if model is None else model,
        ref_model=ref_model,
        args=config(**options(folder, **{**plain, **changes})),
        train_dataset=tiny_pairs(24) if data is None else data,
        eval_dataset=eval_dataset,
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA) if lora else None,
    )


def ours(folder, **changes):
    return make(PreferenceTrainer, PreferenceConfig, folder, **changes)


def theirs(folder, **changes):
    return make(DPOTrainer, DPOConfig, folder, **changes)


def logged(trainer, name: str) -> list[float]:
    return [float(entry[name]) for entry in trainer.state.log_history if name in entry]
