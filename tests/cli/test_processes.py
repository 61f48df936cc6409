"""`ropo train` in two processes: who speaks, who writes, and what is left when one of them is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest
import torch
from accelerate import DistributedType, PartialState
from safetensors.torch import load_file
from transformers import TrainerCallback

from ropo.cli.main import main
from ropo.cli.train import FIRST_LINE
from ropo.core.errors import ProcessLostError
from ropo.core.record import read_record
from ropo.runs import train as one_run
from ropo.training.distributed import processes
from ropo.training.trainer import PreferenceTrainer
from tests.cli.conftest import write_pairs
from tests.cli.test_resume import MANY
from tests.training.distributed.test_trajectories import FSDP2
from tests.training.together import start_together

STEPS = 6


class Die(TrainerCallback):
    """Kill this process before its fourth step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def command_line(arguments: list[str], second_dies: bool = False) -> None:
    build = one_run.build_trainer

    def build_trainer(*args):
        trainer = build(*args)
        trainer.add_callback(Die())
        return trainer

    if second_dies and os.environ["RANK"] == "1":
        one_run.build_trainer = build_trainer
    if os.environ.get("ACCELERATE_USE_FSDP"):
        shard_on_cpus()
    raise SystemExit(main(arguments))


def shard_on_cpus() -> None:
    """Let accelerate take a CPU for an accelerator, which it would not shard on otherwise."""
    create = PreferenceTrainer.create_accelerator_and_postprocess

    def create_accelerator(self) -> None:
        PartialState().distributed_type = DistributedType.MULTI_XPU
        create(self)

    PreferenceTrainer.create_accelerator_and_postprocess = create_accelerator  # in a process of its own


def flags(model, data, output, *more) -> list[str]:
    held_out = write_pairs(data.with_name("held_out.jsonl"), MANY[:5])
    settings = ("--eval_data", held_out, "--max_steps", STEPS, "--per_device_train_batch_size", 2, "--use_cpu")
    saving = ("--logging_steps", 2, "--save_strategy", "steps", "--save_steps", 2, "--monitor_steps", STEPS)
    files = ("train", "--model", model, "--data", data, "--output", output)
    return [str(flag) for flag in (*files, *settings, *saving, *more)]


def run(folder, arguments, *more, seconds: float = 120, **environment) -> tuple[list[int], list[str]]:
    """Return the exit statuses, and what each process said."""
    running = start_together(command_line, folder, arguments, *more, **environment)
    deadline = time.monotonic() + seconds
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [process for process in running if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    torchs = ("[rank", "[Gloo]")  # how lines begin that torch itself prints
    said = [
        "\n".join(line for line in (folder / f"log{rank}").read_text().splitlines() if not line.startswith(torchs))
        for rank in (0, 1)
    ]
    return [process.exitcode for process in running], said


@pytest.fixture
def data(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl", MANY)


def assert_killed(model, data, tmp_path, **environment) -> None:
    """Train until the second process kills itself."""
    statuses, said = run(tmp_path / "killed", flags(model, data, tmp_path / "out"), True, seconds=60, **environment)
    assert statuses == [1, -signal.SIGKILL]
    assert said[1] == ""
    kept = f"{tmp_path}/out.incomplete/checkpoint-2 is whole: give the same command with --resume"
    last = said[0].splitlines()[-1]
    assert re.sub(r"pid \d+", "pid N", last) == f"ropo train: process 1 (pid N) has ended, so process 0 stops; {kept}"


def test_a_killed_process_ends_the_other(model, data, tmp_path, capsys):
    assert_killed(model, data, tmp_path)
    assert main(flags(model, data, tmp_path / "out", "--resume")) == 2
    assert "per_device_train_batch_size (all processes): the run in" in (said := capsys.readouterr().err)
    assert "began with 4, not 2" in said


def test_a_run_killed_under_fsdp2_goes_on_as_if_nothing_had_been(model, data, tmp_path):
    """The weights, held-out pairs and monitor of one process that was not killed, whose batch is that of both."""
    assert_killed(model, data, tmp_path, **FSDP2)
    statuses, said = run(tmp_path / "resumed", flags(model, data, tmp_path / "out", "--resume"), **FSDP2)
    assert statuses == [0, 0], said
    assert "going on from" in said[0]
    alone = flags(model, data, tmp_path / "one", "--per_device_train_batch_size", 4)
    assert main(alone) == 0
    resumed, whole = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "one"))
    assert resumed.keys() == whole.keys()
    assert max((resumed[name] - whole[name]).abs().max() for name in whole) <= 1e-6
    records = [read_record(tmp_path / name).metrics for name in ("out", "one")]
    for part in ("held_out", "monitor"):
        assert numbers(records[0][part]) == pytest.approx(numbers(records[1][part]), abs=1e-5)


def numbers(values: dict) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, float)}


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(model, data, tmp_path):
    """The same adapter, bit for bit, and each log once."""
    assert_killed(model, data, tmp_path)
    statuses, said = run(tmp_path / "resumed", flags(model, data, tmp_path / "out", "--resume"))
    assert statuses == [0, 0]
    assert "going on from" in said[0]
    statuses, whole = run(tmp_path / "whole", flags(model, data, tmp_path / "whole_out"))
    assert statuses == [0, 0]
    assert whole[0].count("step 6/6") == 1
    assert whole[1] == said[1] == ""
    resumed, uninterrupted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "whole_out"))
    assert resumed
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
    for name in ("out", "whole_out"):
        logged = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in logged if "loss" in entry] == [2, 4, 6]
        record = read_record(tmp_path / name)
        assert record.status == "finished"
        assert len(record.metrics["held_out"]["margins"]) == 5


def test_a_mistake_is_told_by_the_first_process(model, data, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    statuses, said = run(tmp_path / "log", flags(model, data, tmp_path / "out"))
    assert statuses == [2, 2]
    first, told = said[0].splitlines()
    assert first == FIRST_LINE
    assert told.startswith(f"ropo train: error: output {tmp_path}/out: the folder is not empty")
    waited = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    processes.let_the_first_speak()
    monkeypatch.setenv("RANK", "1")
    processes.let_the_first_speak()  # where the launcher ends it
    assert waited == [processes.SILENCE]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_only_lost_connections_are_lost_processes(tmp_path, monkeypatch, error, lost):
    monkeypatch.setattr(processes.signal, "signal", lambda *args: None)
    for world in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", world)
        expected = ProcessLostError if lost and world == "2" else type(error)
        with pytest.raises(expected), processes.telling_of_lost_processes(tmp_path):
            raise error
