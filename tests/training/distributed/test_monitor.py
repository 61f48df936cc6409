"""The monitor's numbers, where the weights are cut over processes, are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropo.training.monitor import HackingMonitor
from tests.training.distributed.sharded import (
    FSDP2,
    deepspeed_environment,
    sharded_trainer,
    with_deepspeed,
    write_deepspeed,
)
from tests.training.together import run_together

STEPS = 4
TEXT = " ".join(f"w{number * number % 50}" for number in range(400))
NAMES = {"margin", "kl_per_token", "repetition_rise", "length_ratio", "text_loss_rise", "largest_cosine_change"}
NAMES |= {"energy_change", "chosen_change_per_token"}


def watch(folder: Path, method: str, stage: int | None = None, budget: float | None = None, **changes) -> list[dict]:
    """Train under the monitor and return what it logged, and the weights that a budget kept."""
    if stage is not None:
        write_deepspeed(folder, stage)
        changes |= {"use_cpu": False, "ddp_backend": "gloo"}
    options = {"learning_rate": 1e-2 if method == "full" else 0.1, "max_steps": STEPS, "save_strategy": "no", **changes}
    trainer = sharded_trainer(folder, method, held_out=6, **options)
    said: list[str] = []
    watching = HackingMonitor(trainer, TEXT, every=2, max_new_tokens=12, kl_budget=budget, warn=said.append)
    trainer.add_callback(watching)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "hacking/margin" in entry]
    found = [{name.removeprefix("hacking/"): entry[name] for name in entry} for entry in logs]
    return [*found, {"kept": watching.budget.summary()}] if watching.budget else found


def assert_same(two: list[list[dict]], one: list[dict]) -> None:
    assert [entry["step"] for entry in one] == [2, 4]
    assert set(one[-1]) >= NAMES
    for name in ("margin", "kl_per_token"):
        assert abs(one[-1][name]) > 1e-3, name  # something happened that could differ
    for found in two:
        for entry, expected in zip(found, one, strict=True):
            assert entry == pytest.approx(expected, abs=1e-4, rel=1e-4)


@pytest.mark.slow  # three trainings each; the monitor of a run from the command line is in tests/cli/test_processes.py
@pytest.mark.parametrize("method", ["lora", "ropo", "full"])
def test_the_monitor_under_fsdp2_sees_what_it_sees_in_one_process(tmp_path, method):
    two = run_together(watch, tmp_path / "log", tmp_path / "two", method, **FSDP2)
    one = watch(tmp_path / "one", method)
    assert_same(two, one)
    assert (one[-1]["largest_cosine_change"] > 1e-3) == (method != "ropo")  # rotations keep them


@with_deepspeed
@pytest.mark.slow  # DeepSpeed takes twenty seconds to start
@pytest.mark.parametrize(("stage", "method"), [(3, "ropo"), (3, "full"), (2, "ropo")])
def test_the_monitor_under_deepspeed_sees_what_it_sees_in_one_process(tmp_path, stage, method):
    two = run_together(watch, tmp_path / "log", tmp_path / "two", method, stage, **deepspeed_environment())
    assert_same(two, watch(tmp_path / "one", method))
