"""Two processes against one: the same trajectory, every pair once, one correct adapter, no duplicates."""

from __future__ import annotations

import math
import os

import pytest
import torch
from accelerate import DistributedType, PartialState
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from ropo import RopoConfig
from ropo.training.config import PreferenceConfig
from ropo.training.trainable import NUMBER
from ropo.training.trainer import PreferenceTrainer
from tests.training.packing_helpers import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.together import run_together

TRAJECTORY = 1e-4  # the bound over twenty steps
SHARE = 2
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
LOGGED = ("loss", "grad_norm", "learning_rate", "logps/chosen", "rewards/margins", "rewards/accuracies", "entropy")
LOGGED += ("num_tokens", "logits/rejected", "mean_token_accuracy", "eval_loss")
METHODS = {
    "ropo": lambda: RopoConfig(task_type="CAUSAL_LM"),
    "lora": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "full": lambda: None,
}


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


def assert_same_trajectory(two: list[dict], one: dict) -> None:
    steps = [entry for entry in one["logs"] if "loss" in entry]
    assert len(steps) >= 20
    assert math.isclose(steps[0]["loss"], math.log(2), abs_tol=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.01
    assert len(two[0]["logs"]) == len(one["logs"])
    for found, expected in zip(two[0]["logs"], one["logs"], strict=True):
        assert found == pytest.approx(expected, abs=TRAJECTORY, rel=TRAJECTORY)
    for name, weight in one["weights"].items():
        for result in two:
            assert torch.allclose(result["weights"][name], weight, atol=TRAJECTORY), name
    assert all(torch.equal(two[0]["weights"][name], two[1]["weights"][name]) for name in one["weights"])


def assert_every_pair_once(two: list[dict], pairs: int, epochs: int) -> None:
    batches = [first + second for first, second in zip(two[0]["seen"], two[1]["seen"], strict=True)]
    assert all(first and second for first, second in zip(two[0]["seen"], two[1]["seen"], strict=True))
    steps = len(batches) // epochs
    for epoch in range(epochs):
        numbers = [number for batch in batches[epoch * steps : (epoch + 1) * steps] for number in batch]
        assert sorted(numbers) == list(range(pairs))


def assert_saved(folder, result: dict) -> None:
    """What a plain process reads back is what the processes had in memory."""
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved
    assert {name.replace(".default", "") for name in result["weights"]} == set(saved)
    for name, weight in result["weights"].items():
        assert torch.equal(saved[name.replace(".default", "")], weight)
    merged = PeftModel.from_pretrained(tiny_model(), str(folder)).merge_and_unload()
    assert not torch.equal(
        merged.model.layers[0].self_attn.q_proj.weight, tiny_model().model.layers[0].self_attn.q_proj.weight
    )


def test_ddp_gives_the_trajectory_of_one_process(tmp_path):
    """Twenty-seven pairs in batches of four: the last batch of an epoch has three, two and one."""
    two = run_together(train, tmp_path / "log", tmp_path / "two", "ropo", 2)
    one = train(tmp_path / "one", "ropo", 1)
    assert_same_trajectory(two, one)
    assert_every_pair_once(two, 27, epochs=3)
    assert_saved(tmp_path / "two", two[0])
    for found, expected in zip(two[0]["held_out"], one["held_out"], strict=True):
        assert found.shape == expected.shape == (5, 2)
        assert found == pytest.approx(expected, abs=1e-3)
    assert {(len(a), len(b)) for a, b in zip(two[0]["seen"], two[1]["seen"], strict=True)} == {(2, 2), (2, 1)}


def test_fsdp2_gives_the_trajectory_of_one_process(tmp_path):
    two = run_together(train, tmp_path / "log", tmp_path / "two", "ropo", 2, **FSDP2)
    one = train(tmp_path / "one", "ropo", 1)
    assert two[0]["kinds"] == ({("Parameter", "torch.float32")}, {"DTensor"})
    assert_same_trajectory(two, one)
    assert_every_pair_once(two, 27, epochs=3)
    assert_saved(tmp_path / "two", two[0])
    assert two[0]["held_out"][1] == pytest.approx(one["held_out"][1], abs=1e-3)
