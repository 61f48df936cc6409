"""A run under FSDP2 whose disk is full, or one of whose processes is stopped for a while."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest
from safetensors.torch import load_file

from ropo.cli.main import main
from ropo.training.checkpoints import optimizer
from ropo.training.checkpoints.folder import newest_whole
from tests.cli.conftest import MANY, write_pairs
from tests.cli.processes import command_line, flags, run
from tests.training.distributed.sharded import FSDP2
from tests.training.together import start_together

pytestmark = pytest.mark.slow  # each starts two processes twice


@pytest.fixture
def data(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl", MANY)


def with_a_full_disk(arguments: list[str], place: int) -> None:
    """Run the command, with no space left where a process writes its second checkpoint's optimizer."""
    written = []

    def full(*args, **kwargs):
        written.append(args)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **kwargs)

    if int(os.environ["RANK"]) == place == 0:
        write, optimizer.save_state = optimizer.save_state, full
    elif int(os.environ["RANK"]) == place:
        writer = optimizer.HuggingFaceStorageWriter
        write, writer.write_data = writer.write_data, full
    command_line(arguments)


def assert_weights_of_one_process(model, data, out, *more) -> None:
    one = out.with_name("one")
    assert main(flags(model, data, one, *more, "--per_device_train_batch_size", 4)) == 0
    name = "model.safetensors" if more else "adapter_model.safetensors"
    found, expected = load_file(out / name), load_file(one / name)
    assert max((found[each] - expected[each]).abs().max() for each in expected) <= 1e-6


@pytest.mark.parametrize(("place", "more"), [(0, ()), (1, ("--method", "full"))], ids=["adapter", "shards"])
def test_a_full_disk_ends_all_and_the_checkpoint_before_is_gone_on_from(model, data, tmp_path, place, more):
    """The first process writes the adapter; of all weights' optimizer each writes its shards."""
    log = tmp_path / "full"
    running = start_together(with_a_full_disk, log, flags(model, data, tmp_path / "out", *more), place, **FSDP2)
    began = time.monotonic()
    for process in running:
        process.join(120)
    said = [(log / f"log{each}").read_text() for each in (0, 1)]
    assert [process.exitcode for process in running] == [1, 1], said
    assert time.monotonic() - began < 120
    assert f"ropo train: the disk of {tmp_path}/out.incomplete is full" in said[0]
    assert "checkpoint-2 is complete: give the same command with --resume" in said[0]
    assert newest_whole(tmp_path / "out.incomplete")[0].name == "checkpoint-2"
    statuses, said = run(tmp_path / "resumed", flags(model, data, tmp_path / "out", *more, "--resume"), **FSDP2)
    assert statuses == [0, 0], said
    assert_weights_of_one_process(model, data, tmp_path / "out", *more)


@pytest.mark.parametrize(("victim", "seconds"), [(1, 60), (0, 8)])
def test_a_process_that_is_stopped_for_a_while_is_waited_for(model, data, tmp_path, victim, seconds):
    running = start_together(command_line, tmp_path / "log", flags(model, data, tmp_path / "out"), False, **FSDP2)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out.incomplete" / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running[victim].pid, signal.SIGSTOP)
    time.sleep(seconds)
    assert running[1 - victim].is_alive()
    assert not (tmp_path / "out").exists()
    os.kill(running[victim].pid, signal.SIGCONT)
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0]
    assert_weights_of_one_process(model, data, tmp_path / "out")
