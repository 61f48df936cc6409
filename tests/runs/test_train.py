"""A training run as library functions, without a command line."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from ropo.core.errors import UserError
from ropo.core.record import read_record
from ropo.runs.inputs import choose_method, weights_dtype
from ropo.runs.options import MONITOR_STEPS, TrainOptions, trainer_config
from ropo.runs.train import train
from tests.cli.conftest import PAIRS, write_pairs


def options(model, folder, **others) -> TrainOptions:
    trainer = {"max_steps": 2, "use_cpu": True, **others.pop("trainer", {})}
    data = str(write_pairs(folder / "pairs.jsonl"))
    return TrainOptions(model=model, data=data, output=folder / "out", trainer=trainer, **others)


def test_a_run_in_python_leaves_the_folder_and_returns_its_record(model, tmp_path):
    record = train(options(model, tmp_path), Console(quiet=True))
    kept = read_record(tmp_path / "out")
    assert (kept.status, kept.started, kept.metrics) == (record.status, record.started, record.metrics)
    assert (record.status, record.config["method"]) == ("finished", "ropo")
    assert record.metrics["steps"] == 2
    assert record.data["train"].counts["pairs"] == len(PAIRS)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert train(options(model, tmp_path, resume=True), Console(quiet=True)) is None  # it is finished


def test_a_run_that_is_refused_leaves_nothing(model, tmp_path):
    with pytest.raises(UserError, match="target_modules"):
        train(options(model, tmp_path, adapter={"target_modules": ["nothing"]}), Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"resume": True, "overwrite": True}, "resume: cannot be combined with --overwrite"),
        ({"bits": 4, "method": "full"}, "load_in_4bit: quantised weights cannot be trained"),
        ({"monitor_steps": -1}, "monitor_steps: must not be negative, got -1"),
        ({"stop_on_warning": True}, "stop_on_warning: the monitor is off"),
        ({"stop_on_warning": True, "eval_data": "pairs.jsonl", "monitor_steps": 0}, "the monitor is off"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_where_they_enter(model, tmp_path, wrong, rule):
    with pytest.raises(UserError, match=rule):
        options(model, tmp_path, **wrong)


def test_the_monitor_runs_where_there_are_held_out_pairs(model, tmp_path):
    assert not options(model, tmp_path).monitors
    watched = options(model, tmp_path, eval_data="pairs.jsonl")
    assert watched.monitors
    assert watched.monitor_steps == MONITOR_STEPS


def test_a_given_rate_wins_over_the_methods_own(model, tmp_path):
    assert trainer_config(options(model, tmp_path), 0.5, tmp_path).learning_rate == 0.5
    given = options(model, tmp_path, trainer={"learning_rate": 0.25})
    assert trainer_config(given, 0.5, tmp_path).learning_rate == 0.25


def test_the_method_is_ropo_unless_named(model, tmp_path):
    assert choose_method(options(model, tmp_path))[0] == "ropo"
    method, adapter = choose_method(options(model, tmp_path, method="full"))
    assert (method, adapter) == ("full", None)


@pytest.mark.parametrize(
    ("name", "method", "on_gpu", "dtype"),
    [
        ("auto", "ropo", False, torch.float32),  # a CPU computes in float32
        ("auto", "ropo", True, None),  # frozen weights stay as they are stored
        ("auto", "full", True, torch.float32),  # bf16 would swallow small updates
        ("bfloat16", "full", True, torch.bfloat16),
    ],
)
def test_dtype_of_the_weights(name, method, on_gpu, dtype):
    assert weights_dtype(name, method, on_gpu) == dtype
