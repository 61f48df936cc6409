"""Trackers get our metrics under TRL's names, and the monitor's beside them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.cli.conftest import train


@pytest.mark.filterwarnings("ignore")  # of the tracker's own libraries
@pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_gets_the_metrics(model, pairs, tmp_path):
    flags = ["--eval_data", pairs, "--report_to", "tensorboard", "--logging_steps", 1, "--eval_strategy", "epoch"]
    assert train(model, pairs, tmp_path / "out", *flags) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (tmp_path / "out" / "runs").rglob("*tfevents*")
    events = EventAccumulator(str(file))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {f"train/rewards/{each}" for each in ("chosen", "rejected", "margins", "accuracies")} <= names
    assert {"train/loss", "train/logps/chosen", "train/unique_tokens_per_second", "train/packing_ratio"} <= names
    assert {"eval/loss", "eval/rewards/margins"} <= names
    assert {f"train/hacking/{each}" for each in ("margin", "kl_per_token", "length_ratio", "energy_change")} <= names
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
