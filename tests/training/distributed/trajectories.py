"""Training of a tiny model whose every step is kept, to be compared with that of one process."""

from __future__ import annotations

import math
import os

import pytest
import torch
from accelerate import DistributedType, PartialState

from ropo.training.config import PreferenceConfig
from ropo.training.trainable import NUMBER
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.distributed.sharded import METHODS

TRAJECTORY = 1e-4  # the bound over twenty steps
SHARE = 2
LOGGED = ("loss", "grad_norm", "learning_rate", "logps/chosen", "rewards/margins", "rewards/accuracies", "entropy")
LOGGED += ("num_tokens", "logits/rejected", "mean_token_accuracy", "eval_loss")


class Watched(PreferenceTrainer):
    """Keep which records each step of this process was given."""

    def create_accelerator_and_postprocess(self):
        if os.environ.get("ACCELERATE_USE_FSDP"):  # accelerate shards on accelerators only: let it take this for one
            PartialState().distributed_type = DistributedType.MULTI_XPU
        super().create_accelerator_and_postprocess()

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append(inputs[NUMBER].tolist())
        return super().training_step(model, inputs, *args, **kwargs)


def train(folder, method: str, processes: int, pairs: int = 27, **changes) -> dict:
    """Train and save, and return what was logged, seen and kept in memory."""
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": SHARE * 2 // processes,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3 if method == "full" else 1e-2,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    torch.manual_seed(0)
    trainer = Watched(
        tiny_model(),
        ref_model=tiny_model() if method == "full" else None,
        args=PreferenceConfig(**options),
        train_dataset=tiny_pairs(pairs),
        eval_dataset=tiny_pairs(5, seed=9),
        processing_class=tiny_tokenizer(),
        peft_config=METHODS[method](),
    )
    trainer.seen = []
    before = None if trainer.is_fsdp_enabled else trainer.predict(trainer.eval_dataset).predictions
    trainer.train()
    after = trainer.predict(trainer.eval_dataset).predictions
    trainer.save_model(str(folder))
    trained = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    whole = {name: getattr(each, "full_tensor", lambda each=each: each)().detach() for name, each in trained.items()}
    kinds = {(type(each).__name__, str(each.dtype)) for each in trained.values()}
    frozen = {type(each).__name__ for each in trainer.model.parameters() if not each.requires_grad}
    return {
        "logs": [{name: each[name] for name in LOGGED if name in each} for each in trainer.state.log_history],
        "seen": trainer.seen,
        "weights": {name: each.clone() for name, each in whole.items()},
        "held_out": (before, after),
        "kinds": (kinds, frozen),
    }


def decided(logs: list[dict]) -> list[dict]:
    """Leave out the accuracy of the first step: policy and reference are equal there, so rounding decides each pair."""
    assert "rewards/accuracies" in logs[0]
    return [{name: each for name, each in logs[0].items() if name != "rewards/accuracies"}, *logs[1:]]


def assert_same_trajectory(two: list[dict], one: dict) -> None:
    steps = [entry for entry in one["logs"] if "loss" in entry]
    assert len(steps) >= 20
    assert math.isclose(steps[0]["loss"], math.log(2), abs_tol=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.01
    assert len(two[0]["logs"]) == len(one["logs"])
    for found, expected in zip(decided(two[0]["logs"]), decided(one["logs"]), strict=True):
        assert found == pytest.approx(expected, abs=TRAJECTORY, rel=TRAJECTORY)
    for name, weight in one["weights"].items():
        for result in two:
            assert torch.allclose(result["weights"][name], weight, atol=TRAJECTORY), name
    assert all(torch.equal(two[0]["weights"][name], two[1]["weights"][name]) for name in one["weights"])
