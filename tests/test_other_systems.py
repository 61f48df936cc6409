"""What only Linux has is guarded: ropo is imported and trains without it, as on macOS and Windows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ropo.comparison import execution
from ropo.core import files
from tests.cli.conftest import write_pairs
from tests.tiny.sampled import save_tiny

# Libraries come first, for the real system; ropo then sees the other one.
OTHER_SYSTEM = """
import os, pathlib, sys
import aiohttp, datasets, openai, peft, torch, transformers, trl
import trl.trainer.dpo_trainer
sys.platform = {platform!r}
for name in ("fcntl", "resource", "pwd", "grp", "termios", "syslog", "spwd"):
    sys.modules[name] = None
for name in [*filter(lambda each: each.startswith("sched_"), dir(os)), "sysconf", "fork", "getuid", "killpg"]:
    if hasattr(os, name):
        delattr(os, name)

def missing(method):
    def guarded(path, *args, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(str(path))
        return method(path, *args, **options)
    return guarded
for name in ("open", "stat"):
    setattr(pathlib.Path, name, missing(getattr(pathlib.Path, name)))
"""
EVERY_MODULE = """
import importlib, pkgutil, ropo
names = [each.name for each in pkgutil.walk_packages(ropo.__path__, "ropo.") if not each.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
TRAIN = """
from ropo.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(platform: str, code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", OTHER_SYSTEM.format(platform=platform) + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_every_module_is_imported_without_what_linux_has(platform):
    assert int(run(platform, EVERY_MODULE)) > 150


def test_it_trains_without_what_linux_has(tmp_path):
    model, pairs = save_tiny(tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    flags = ["--model", model, "--data", str(pairs), "--output", str(tmp_path / "out"), "--max_steps", "2", "--use_cpu"]
    assert "step 2/2" in run("darwin", TRAIN, "train", *flags)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_windows_waits_for_no_folder_and_opens_files_for_writing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    opened = []
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(files.os, "open", lambda path, flags: opened.append((path.name, flags)) or 7)
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)
    monkeypatch.setattr(files.os, "close", lambda handle: None)
    files.sync(tmp_path)
    files.sync(tmp_path / "file")
    monkeypatch.undo()
    assert opened == [("file", os.O_RDWR)]


def test_a_comparison_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "fcntl", None)
    with execution.locked(tmp_path) as first, execution.locked(tmp_path) as second:
        assert first != second


def test_windows_inherits_no_lock_and_is_ended_by_the_signal_that_it_has(tmp_path, monkeypatch):
    seen = {}

    class Process(subprocess.Popen):
        def __init__(self, command, **options):
            self.returncode = 0
            seen.update(options)

        def wait(self, timeout=None):
            return 0

        def send_signal(self, number):
            seen["signal"] = number

        def __del__(self):
            pass

    for name, inherited, ended in (("posix", (5,), signal.SIGINT), ("nt", (), signal.SIGTERM)):
        with monkeypatch.context() as patch:
            patch.setattr(execution.subprocess, "Popen", Process)
            patch.setattr(execution.os, "name", name)
            execution.run_in_process_of_its_own(["env"], tmp_path / name, [5])
            execution.stop(Process([]))
        assert (seen["pass_fds"], seen["signal"]) == (inherited, ended)
