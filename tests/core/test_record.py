"""The record of a run."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from ropo.core import record
from ropo.core.errors import UserError
from ropo.core.record import RunRecord, Source, git_commit, library_versions, read_record


def test_what_is_written_is_read_back(tmp_path):
    made = RunRecord(
        command=["train", "--model", "m"],
        seed=3,
        config={"folder": Path("x"), "names": {"a"}},
        model=Source(name="m", sha256="0" * 64),
        data={"train": Source(name="d", sha256="1" * 64, counts={"pairs": 2})},
    )
    made.write(tmp_path)
    found = read_record(tmp_path)
    assert found.status == "running"
    assert found.ended is None
    assert found.config == {"folder": "x", "names": ["a"]}
    assert found.model_copy(update={"config": made.config}) == made
    assert found.started.utcoffset() == timedelta(0)


def test_finishing_leaves_the_running_record_alone():
    running = RunRecord(command=["train"])
    finished = running.finish({"loss": 0.5})
    assert (running.status, running.metrics) == ("running", {})
    assert (finished.status, finished.metrics) == ("finished", {"loss": 0.5})
    assert finished.ended >= finished.started == running.started


@pytest.mark.parametrize(
    ("change", "field"),
    [({"schema_version": 2}, "schema_version"), ({"status": "lost"}, "status"), ({"stray": 1}, "stray")],
)
def test_another_schema_is_refused_by_field(tmp_path, change, field):
    RunRecord(command=[]).write(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=rf"run.json: is not a run record of schema 1 \({field}: "):
        read_record(tmp_path)


def test_a_missing_or_broken_record_is_told(tmp_path):
    with pytest.raises(UserError, match=r"has no run.json; name the output folder"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="is not a run record"):
        read_record(tmp_path)


def test_versions_are_those_installed():
    import torch

    versions = library_versions()
    assert versions["torch"] == torch.__version__
    assert {"python", "ropo", "transformers", "peft", "trl"} <= set(versions)


def test_the_commit_is_told_in_a_checkout_only(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    (root / "src" / "ropo").mkdir(parents=True)
    monkeypatch.setattr(record, "__file__", str(root / "src" / "ropo" / "core" / "record.py"))
    assert git_commit() is None

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(root), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert git_commit() is None  # no commit yet
    (root / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert git_commit() == git("rev-parse", "HEAD")
    (root / "file").write_text("2")
    assert git_commit() == git("rev-parse", "HEAD") + "-dirty"
