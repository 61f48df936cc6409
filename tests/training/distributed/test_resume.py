"""A run whose weights are cut over processes goes on from a checkpoint as if it had not been interrupted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.checkpoints.folder import find_fault
from ropo.training.run import run_trainer
from tests.training.distributed.sharded import (
    FSDP2,
    deepspeed_environment,
    sharded_trainer,
    with_deepspeed,
    write_deepspeed,
)
from tests.training.together import run_together

SAME = 1e-6  # the bound; a resumed run with the same processes is the same bit for bit
STEPS, SAVED = 6, 4  # three steps an epoch: the checkpoint is in the middle of the second


def train(folder: Path, method: str, resumed: str | None = None, **changes) -> dict:
    """Train, saving on the way, and return the trained weights, the logs and the held-out numbers."""
    options = {
        "learning_rate": 1e-3 if method == "full" else 1e-2,
        "max_steps": STEPS,
        "logging_steps": 3,  # a checkpoint cuts one in two
        "save_strategy": "steps",
        "save_steps": SAVED,
        **changes,
    }
    trainer = sharded_trainer(folder, method, held_out=5, **options)
    result = run_trainer(trainer, Safekeeping(None), None if resumed is None else folder / resumed)
    count = os.environ.get("WORLD_SIZE", "1")
    saved = folder / f"saved-{count}-{resumed or 'whole'}"
    trainer.save_model(str(saved))
    trainer.accelerator.wait_for_everyone()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    kinds = {type(value).__name__ for state in trainer.optimizer.state.values() for value in state.values()}
    names = ("loss", "logps/chosen", "rewards/margins", "learning_rate", "num_tokens", "grad_norm")
    return {
        "weights": load_file(saved / ("model.safetensors" if method == "full" else "adapter_model.safetensors")),
        "logs": [{name: entry[name] for name in names} for entry in logs],
        "held_out": result["held_out"],
        "kinds": kinds,
    }


def train_with_deepspeed(folder: Path, method: str, stage: int, changes: dict, resumed: str | None = None) -> dict:
    write_deepspeed(folder, stage, **changes)
    return train(folder, method, resumed, use_cpu=False, ddp_backend="gloo", **changes)


def assert_goes_on(found: dict, whole: dict, atol: float = SAME) -> None:
    assert found["weights"].keys() == whole["weights"].keys()
    for name, weight in whole["weights"].items():
        assert torch.allclose(found["weights"][name], weight, atol=atol, rtol=0), name
    assert len(found["logs"]) == len(whole["logs"]) == STEPS // 3
    for one, other in zip(found["logs"], whole["logs"], strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-5)
    assert found["held_out"]["margins"] == pytest.approx(whole["held_out"]["margins"], abs=1e-5)


@pytest.mark.parametrize("method", ["full", pytest.param("ropo", marks=pytest.mark.slow)])  # also in tests/cli
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


@with_deepspeed
@pytest.mark.slow  # DeepSpeed takes twenty seconds to start, each time
@pytest.mark.parametrize(
    ("stage", "method", "changes"),
    [(2, "ropo", {}), (3, "ropo", {}), (2, "full", {}), (3, "full", {}), (2, "full", {"bf16": True})],
    ids=lambda each: str(each),
)
def test_deepspeed_goes_on_with_two_processes_with_four_and_with_none(tmp_path, stage, method, changes):
    """In bfloat16 the weights that are trained are DeepSpeed's own in float32, which a plain process does not have."""
    run, checkpoint, environment = tmp_path / "run", f"checkpoint-{SAVED}", deepspeed_environment()
    ask = (train_with_deepspeed, tmp_path / "log", run, method, stage, changes)
    whole = run_together(*ask, **environment)
    assert find_fault(run / checkpoint) is None
    for count in (2,) if changes else (2, 4):
        resumed = run_together(*ask, checkpoint, count=count, **environment)
        assert_goes_on(resumed[0], whole[0])
    if not changes:
        assert_goes_on(train(run, method, checkpoint), whole[0])
