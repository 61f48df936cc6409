"""The commands on any data file: status 0 with a whole output, or status 2 with one line and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ropo.cli.main import main
from tests.cli.conftest import train
from tests.fuzz import contents
from tests.fuzz.harness import time_limit

few = pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])


def run_many(count: int, inputs: st.SearchStrategy[bytes], folder: Path, name: str, run: Any, capsys: Any) -> None:
    seen: Counter[int] = Counter()

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def one(content: bytes) -> None:
        (folder / name).write_bytes(content)
        with time_limit():
            status = run(folder / name)
        error = capsys.readouterr().err
        seen[status] += 1
        if status == 2:
            assert error.count("\n") == 1, error
            assert {path.name for path in folder.iterdir()} == {name}
            return
        assert status == 0, error
        assert {path.name for path in folder.iterdir()} == {name, "out"}
        output = folder / "out"
        shutil.rmtree(output) if output.is_dir() else output.unlink()

    one()
    assert set(seen) == {0, 2}, seen


@few
def test_train(model: str, tmp_path: Path, capsys: Any, count: int) -> None:
    def run(file: Path) -> int:
        status = train(model, file, tmp_path / "out", "--max_steps", "1", "--max_length", "60")
        assert status or json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]["steps"] == 1
        return status

    run_many(count, contents.damaged(contents.lines), tmp_path, "pairs.jsonl", run, capsys)


@few
def test_generate(model: str, tmp_path: Path, capsys: Any, count: int) -> None:
    def run(file: Path) -> int:
        flags = ["--prompts", file, "--output", tmp_path / "out", "--max_new_tokens", 2]
        status = main([str(flag) for flag in ["generate", model, *flags]])
        if status == 0:
            lines = (tmp_path / "out").read_bytes().split(b"\n")[:-1]
            assert len(lines) == sum(bool(line.strip()) for line in file.read_bytes().split(b"\n"))
            assert all(len(json.loads(line)["outputs"]) == 1 for line in lines)
        return status

    run_many(count, contents.damaged(contents.prompt_lines), tmp_path, "prompts.jsonl", run, capsys)
