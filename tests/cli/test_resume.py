"""A run that is killed, stopped or runs out of disk, and goes on."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ropo.cli import env
from ropo.cli.main import main
from ropo.core.record import read_record
from ropo.lm.adapters import is_adapter
from ropo.runs import train as one_run
from ropo.training.callbacks.safekeeping import Safekeeping
from ropo.training.checkpoints import checkpointer, optimizer
from tests.cli import killing
from tests.cli.conftest import MANY, train, write_pairs

TIMES = {"seconds", "unique_tokens_per_second", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


def command(model, data, output, *flags):
    """Several epochs that end in a smaller batch, logs that a checkpoint cuts in two, and all that has a memory."""
    held_out = write_pairs(data.with_name("held_out.jsonl"), MANY[:16])
    settings = ("--per_device_train_batch_size", 3, "--gradient_accumulation_steps", 2, "--max_steps", 12)
    logs = ("--logging_steps", 5, "--save_strategy", "steps", "--save_steps", 2, "--learning_rate", 0.3)
    watch = ("--eval_data", held_out, "--monitor_steps", 4)
    files = ("train", "--model", model, "--data", data, "--output", output)
    return [str(flag) for flag in (*files, *settings, *logs, *watch, "--use_cpu", *flags)]


def logged(output):
    entries = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in entries]


def assert_same_run(one, other):
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert first
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert logged(one) == logged(other)
    records = [read_record(folder) for folder in (one, other)]
    assert records[0].metrics["warnings"]
    for name in ("warnings", "monitor", "held_out", "last", "train_loss", "steps"):
        found, expected = ({**record.metrics[name]} if name == "last" else record.metrics[name] for record in records)
        if name == "last":
            found, expected = ({key: last[key] for key in last if key not in TIMES} for last in (found, expected))
        assert found == expected, name


@pytest.fixture(autouse=True)
def one_thread():
    """Bits depend on the number of threads, and the processes that are killed have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", MANY)


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert killing.finish(command(model, data, folder / "out"), folder / "log") == 0
    return folder / "out"


def test_a_killed_run_goes_on_bit_for_bit(model, data, whole, tmp_path):
    """Killed in the middle of a write, then between two steps, then not at all."""
    log, flags = tmp_path / "log", command(model, data, tmp_path / "out", "--resume")
    assert killing.finish(flags, log, die_in_write=3) == -signal.SIGKILL
    unfinished = tmp_path / "out.incomplete"
    assert sorted(path.name for path in unfinished.glob("*checkpoint*")) == [
        *("checkpoint-2", "checkpoint-4", "unfinished-checkpoint-6")
    ]
    assert "nothing to go on from: starting from the beginning" in log.read_text()
    process = killing.start(flags, log)
    deadline = time.monotonic() + 300  # a busy machine takes minutes to start one
    while not (unfinished / "checkpoint-8").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert "going on from" in log.read_text()
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # a line that a kill tore
    assert killing.finish(flags, log) == 0
    assert_same_run(whole, tmp_path / "out")
    assert not list(tmp_path.glob("*/unfinished-*"))
    warned = read_record(whole).metrics["warnings"]
    said = log.read_text()
    assert {name: said.count(f": {name}: ") for name, warning in warned.items() if warning["step"] == 4} == {
        name: 1 for name, warning in warned.items() if warning["step"] == 4
    }


def test_a_run_killed_after_its_last_step_does_no_further_one(model, data, whole, tmp_path):
    unfinished = tmp_path / "out.incomplete"
    shutil.copytree(whole, unfinished)
    assert (unfinished / "checkpoint-12").is_dir()
    record = read_record(whole)
    record.model_copy(update={"status": "running", "ended": None, "metrics": {}}).write(unfinished)
    assert killing.finish(command(model, data, tmp_path / "out", "--resume"), tmp_path / "log") == 0
    assert "going on from" in (tmp_path / "log").read_text()
    assert_same_run(whole, tmp_path / "out")


def logged_steps(folder) -> int:
    """Count the lines that a run has logged so far."""
    file = folder / "out.incomplete" / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
def test_kills_at_twenty_random_moments(model, data, whole, tmp_path):
    """Each time from wherever the run got to; every fourth kill lands in the middle of a checkpoint's write.

    Moments are counted in logged steps, not in seconds: a busy machine would be killed before it has a checkpoint.
    """
    generator = random.Random(0)
    killed = going_on = 0
    for attempt in range(40):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        flags = command(model, data, folder / "out", "--resume")
        for kill in range(4):
            if killed == 20:
                break
            if kill == 3:
                status = killing.finish(flags, folder / "log", die_in_write=1 + generator.randrange(2))
                killed += status == -signal.SIGKILL
                continue
            steps = logged_steps(folder) + generator.randrange(5)
            process = killing.start(flags, folder / "log")
            while process.is_alive() and logged_steps(folder) < steps:
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.1))
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        assert killing.finish(flags, folder / "log") == 0
        going_on += (folder / "log").read_text().count("going on from")
        assert_same_run(whole, folder / "out")
        if killed == 20:
            break
    assert killed == 20
    assert going_on >= 5


def test_a_torn_checkpoint_is_told_and_the_one_before_is_used(model, data, whole, tmp_path, capsys):
    unfinished = tmp_path / "out.incomplete"
    shutil.copytree(whole, unfinished)
    for step in (8, 10, 12):
        shutil.rmtree(unfinished / f"checkpoint-{step}")
    torn = unfinished / "checkpoint-6" / "optimizer.safetensors"
    os.truncate(torn, torn.stat().st_size // 2)
    assert main(command(model, data, tmp_path / "out", "--resume")) == 0
    said = capsys.readouterr().out
    assert "checkpoint-6 is not used: optimizer.safetensors has " in said
    assert f"going on from {unfinished}/checkpoint-4" in said
    assert_same_run(whole, tmp_path / "out")


def test_there_may_be_nothing_to_go_on_from_or_nothing_left_to_do(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "out", "--resume") == 0
    assert "nothing to go on from: starting from the beginning" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert train(model, pairs, tmp_path / "out", "--resume") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert train(model, pairs, tmp_path / "out", "--resume", "--overwrite") == 2
    assert "resume: cannot be combined with --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.1), ("seed", 7), ("method", "lora")])
def test_an_option_that_changed_is_named(model, data, whole, tmp_path, capsys, name, value):
    shutil.copytree(whole, tmp_path / "out.incomplete")
    assert main(command(model, data, tmp_path / "out", "--resume", f"--{name}", value)) == 2
    assert f"error: {name}: the run in {tmp_path}/out.incomplete began with " in capsys.readouterr().err
    assert (tmp_path / "out.incomplete" / "checkpoint-12").is_dir()


def test_losses_in_another_order_are_others(model, data, tmp_path, capsys):
    """Their weights go by their places."""
    losses = ("--max_steps", 1, "--loss_weights", 1, 0.1, "--loss_type")
    assert main(command(model, data, tmp_path / "out", *losses, "sigmoid", "sft")) == 0
    (tmp_path / "out").rename(tmp_path / "out.incomplete")
    assert main(command(model, data, tmp_path / "out", *losses, "sft", "sigmoid", "--resume")) == 2
    assert "error: loss_type: the run in" in capsys.readouterr().err


def test_data_that_changed_is_named_and_other_logging_is_not(model, data, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "out.incomplete")
    other = write_pairs(tmp_path / "other.jsonl", MANY[:-1])
    assert main(command(model, other, tmp_path / "out", "--resume")) == 2
    assert "error: train data (content): the run in" in capsys.readouterr().err
    turned = write_pairs(tmp_path / "turned.jsonl", MANY[::-1])
    assert main(command(model, turned, tmp_path / "out", "--resume")) == 2
    assert "error: train data (content): the run in" in capsys.readouterr().err
    assert main(command(model, data, tmp_path / "out", "--resume", "--save_steps", 5, "--report_to", "none")) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(model, data, whole, tmp_path, capsys, monkeypatch, number):
    step_end = Safekeeping.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), number)
        step_end(self, args, state, control, **kwargs)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Safekeeping, "on_step_end", on_step_end)
        assert main(command(model, data, tmp_path / "out")) == 1
    assert signal.getsignal(number) is before
    said = capsys.readouterr()
    assert f"{number.name}: finishing this step and saving" in said.out
    assert f"ropo train: stopped by {number.name} after step 5 of 12, which is saved; give the same" in said.err
    assert (tmp_path / "out.incomplete" / "checkpoint-5").is_dir()
    assert main(command(model, data, tmp_path / "out", "--resume")) == 0
    assert_same_run(whole, tmp_path / "out")


def test_an_adapter_is_saved_every_so_often_and_its_checkpoints_go_in_the_end(model, pairs, tmp_path, monkeypatch):
    from ropo.training.checkpoints.folder import complete

    saved = []
    monkeypatch.setattr(checkpointer, "complete", lambda folder: (saved.append(folder.name), complete(folder)))
    assert train(model, pairs, tmp_path / "quick") == 0
    assert saved == []
    monkeypatch.setattr(one_run, "CHECKPOINT_SECONDS", 0.0)
    assert train(model, pairs, tmp_path / "slow", "--max_steps", 4) == 0
    assert saved == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    assert not list((tmp_path / "slow").glob("checkpoint-*"))
    assert train(model, pairs, tmp_path / "full", "--method", "full", "--learning_rate", 1e-3) == 0
    assert len(saved) == 4


def test_nothing_is_pickled(whole):
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert len(files) > 40
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".md", ".jinja"}


def test_a_full_disk_is_told_and_loses_nothing(model, data, whole, tmp_path, capsys, monkeypatch):
    save, saves = checkpointer.save_state, []

    def full(state, stem):
        saves.append(stem)
        if len(saves) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, stem)

    with monkeypatch.context() as patch:
        for module in (checkpointer, optimizer):
            patch.setattr(module, "save_state", full)
        assert main(command(model, data, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "out.incomplete is full (" in error
    assert "checkpoint-4 is complete: give the same command with --resume" in error
    assert main(command(model, data, tmp_path / "out", "--resume")) == 0
    assert_same_run(whole, tmp_path / "out")


def test_other_errors_of_the_disk_pass(tmp_path):
    with pytest.raises(PermissionError), one_run.telling_of_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_what_was_trained_is_saved_elsewhere_where_the_disk_is_full_at_the_end(
    model, data, tmp_path, capsys, monkeypatch
):
    save, folders = one_run.save_trained, []

    def full(trainer, folder):
        folders.append(folder)
        if len(folders) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(trainer, folder)

    monkeypatch.setattr(one_run, "save_trained", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert train(model, data, tmp_path / "out") == 1
    assert f"is full, so what was trained was saved in {folders[1]};" in capsys.readouterr().err
    assert is_adapter(str(folders[1]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space (os error 28)")]
)
def test_a_full_disk_is_one_line_in_every_command(monkeypatch, capsys, error):
    def fail(arguments):
        raise error

    monkeypatch.setattr(env, "run", fail)
    assert main(["env"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ropo env: the disk is full (")
