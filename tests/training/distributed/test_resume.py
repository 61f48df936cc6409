"""A run whose weights are cut over processes goes on from a checkpoint as if it had not been interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, PartialState

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.run import run_trainer
from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.checkpoints.folder import find_fault
from ropo.training.trainer import PreferenceTrainer
from tests.training.distributed.test_trajectories import FSDP2, METHODS
from tests.training.packing_helpers import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.together import run_together

SAME = 1e-6  # the bound; a resumed run with the same processes is the same bit for bit
BATCH, STEPS, SAVED = 4, 9, 4  # three steps an epoch: the checkpoint is in the middle of the second


class Sharded(PreferenceTrainer):
    """Let accelerate take a CPU for an accelerator, which it would not shard on otherwise."""

    def create_accelerator_and_postprocess(self):
        if os.environ.get("ACCELERATE_USE_FSDP"):
            PartialState().distributed_type = DistributedType.MULTI_XPU
        super().create_accelerator_and_postprocess()


def train(folder: Path, method: str, resumed: str | None = None, **changes) -> dict:
    """Train, saving on the way, and return the trained weights, the logs and the held-out numbers."""
    options = {
        "per_device_train_batch_size": BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        "learning_rate": 1e-3 if method == "full" else 1e-2,
        "max_steps": STEPS,
        "logging_steps": 3,  # a checkpoint cuts one in two
        "save_strategy": "steps",
        "save_steps": SAVED,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    torch.manual_seed(0)
    trainer = Sharded(
        tiny_model(),
        ref_model=tiny_model() if method == "full" else None,
        args=PreferenceConfig(str(folder), **options),
        train_dataset=tiny_pairs(12),
        eval_dataset=tiny_pairs(5, seed=9),
        processing_class=tiny_tokenizer(),
        peft_config=METHODS[method](),
    )
    result = run_trainer(trainer, Safekeeping(None), None if resumed is None else folder / resumed)
    trained = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    whole = {name: getattr(each, "full_tensor", lambda each=each: each)().detach() for name, each in trained.items()}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    kinds = {type(value).__name__ for state in trainer.optimizer.state.values() for value in state.values()}
    names = ("loss", "logps/chosen", "rewards/margins", "learning_rate", "num_tokens", "grad_norm")
    return {
        "weights": {name: each.clone() for name, each in whole.items()},
        "logs": [{name: entry[name] for name in names} for entry in logs],
        "held_out": result["held_out"],
        "kinds": kinds,
    }


def assert_goes_on(found: dict, whole: dict, atol: float = SAME) -> None:
    assert found["weights"].keys() == whole["weights"].keys()
    for name, weight in whole["weights"].items():
        assert torch.allclose(found["weights"][name], weight, atol=atol, rtol=0), name
    assert len(found["logs"]) == len(whole["logs"]) == STEPS // 3
    for one, other in zip(found["logs"], whole["logs"], strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-5)
    assert found["held_out"]["margins"] == pytest.approx(whole["held_out"]["margins"], abs=1e-5)


@pytest.mark.parametrize("method", ["ropo", "full"])
def test_fsdp2_goes_on_with_as_many_processes_and_with_one(tmp_path, method):
    """The optimizer's shards are read by two processes, and by one that shards nothing."""
    run = tmp_path / "run"
    whole = run_together(train, tmp_path / "whole", run, method, **FSDP2)
    assert whole[0]["kinds"] == ({"Tensor", "DTensor"} if method == "full" else {"Tensor"})
    assert find_fault(run / f"checkpoint-{SAVED}") is None
    resumed = run_together(train, tmp_path / "resumed", run, method, f"checkpoint-{SAVED}", **FSDP2)
    for one, other in zip(resumed, whole, strict=True):
        assert_goes_on(one, other)
    assert_goes_on(train(run, method, f"checkpoint-{SAVED}"), whole[0])


@pytest.mark.slow  # four processes on two cores
@pytest.mark.parametrize("method", ["ropo", "full"])
def test_a_checkpoint_of_four_processes_is_continued_by_four_two_and_one(tmp_path, method):
    run, checkpoint = tmp_path / "run", f"checkpoint-{SAVED}"
    whole = run_together(train, tmp_path / "whole", run, method, count=4, **FSDP2)
    for count in (4, 2):
        resumed = run_together(train, tmp_path / f"resumed{count}", run, method, checkpoint, count=count, **FSDP2)
        assert_goes_on(resumed[0], whole[0])
    assert_goes_on(train(run, method, checkpoint), whole[0])
