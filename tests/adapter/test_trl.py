"""The adapter trains, unmodified, under the trainers that people have."""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer

from ropo import RopoConfig
from tests.tiny.adapted import PAIRS, logits, tiny_llama, tokens
from tests.tiny.tokenizer import tiny_tokenizer


def dpo_trainer(model, tmp_path, peft_config=None, **options) -> DPOTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        **options,
    }
    args = DPOConfig(output_dir=str(tmp_path / "run"), **settings)
    return DPOTrainer(model, args=args, train_dataset=PAIRS, processing_class=tiny_tokenizer(), peft_config=peft_config)


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_dpo_starts_at_ln_2_and_falls(tmp_path) -> None:
    history = losses(dpo_trainer(tiny_llama(), tmp_path, RopoConfig(), num_train_epochs=5))
    assert len(history) == 20
    assert abs(history[0] - math.log(2)) < 1e-5
    assert history[-1] < math.log(2) - 0.03


def test_continued_training_takes_the_saved_policy_as_reference(tmp_path) -> None:
    """TRL copies tensors named `.default.` into a `ref` adapter; HRA's are not, and its first loss is 0.6894."""
    first = dpo_trainer(tiny_llama(), tmp_path, RopoConfig(), num_train_epochs=5)
    losses(first)
    first.model.save_pretrained(tmp_path / "adapter")
    policy = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter", is_trainable=True)
    before = logits(policy)
    trainer = dpo_trainer(policy, tmp_path, num_train_epochs=1)
    history = losses(trainer)
    assert abs(history[0] - math.log(2)) < 1e-5
    assert history[-1] < history[0]
    trainer.model.set_adapter("ref")
    assert torch.equal(logits(trainer.model.eval()), before)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(tmp_path, reentrant) -> None:
    plain = losses(dpo_trainer(tiny_llama(), tmp_path, RopoConfig()))
    checkpointed = losses(
        dpo_trainer(
            tiny_llama(),
            tmp_path,
            RopoConfig(),
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        )
    )
    assert len(plain) == len(checkpointed) == 12
    assert plain == pytest.approx(checkpointed, abs=1e-6)


def test_plain_trainer_lowers_a_language_modelling_loss(tmp_path) -> None:
    data = Dataset.from_list([{"input_ids": row, "labels": row} for row in tokens().tolist()] * 8)
    model = get_peft_model(tiny_llama(), RopoConfig())
    args = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=3e-2, num_train_epochs=20, logging_steps=1, report_to="none",
        use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    history = losses(Trainer(model, args=args, train_dataset=data))
    assert history[-1] < history[0] - 0.1


def test_ropo_and_lora_are_trained_by_the_same_code(tmp_path) -> None:
    for config in (RopoConfig(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])):
        history = losses(dpo_trainer(tiny_llama(), tmp_path, config))
        assert abs(history[0] - math.log(2)) < 1e-5, type(config)
