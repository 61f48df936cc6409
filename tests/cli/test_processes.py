"""`ropo train` in two processes: who speaks, who writes, and what is left when one of them is killed."""

from __future__ import annotations

import json
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

from ropo.cli.main import FIRST_LINE, main
from ropo.core.errors import ProcessLostError
from ropo.core.record import read_record
from ropo.training.distributed import processes
from tests.cli.conftest import MANY, write_pairs
from tests.cli.processes import flags, run
from tests.training.distributed.sharded import FSDP2


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
