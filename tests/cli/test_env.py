"""`ropo env`."""

from __future__ import annotations

import json

import pytest
import torch

from ropo import environment
from ropo.cli.main import main
from ropo.environment import describe_environment
from ropo.ops import choose
from ropo.ops.cpu.library import compiler
from tests.cli.conftest import train


def test_lines_and_json_tell_the_same(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["cores"] >= 1
    assert found["memory_gb"] > 0
    assert found["devices"]
    for name, version in found["versions"].items():
        assert f"{name:<14}{version}" in lines


def test_says_whether_kernels_are_used(monkeypatch, capsys):
    choose._tried.cache_clear()
    assert main(["env"]) == 0
    used = compiler() is not None
    assert f"{'kernels':<14}{'cpu' if used else 'none: plain PyTorch'}" in capsys.readouterr().out.splitlines()
    monkeypatch.setattr(environment, "kernels_on", lambda device, trial: None)
    assert main(["env"]) == 0
    assert f"{'kernels':<14}none: plain PyTorch" in capsys.readouterr().out.splitlines()


@pytest.fixture
def old_trl(monkeypatch) -> str:
    """Pretend an old version; return the line that names it."""
    versions = {**environment.library_versions(), "trl": "0.1.0"}
    monkeypatch.setattr(environment, "library_versions", lambda: versions)
    return f"trl 0.1.0 is not tested with ropo; tested is trl{environment.tested_ranges()['trl']}"


def test_an_untested_version_is_named(old_trl, capsys):
    assert list(describe_environment()["untested"]) == ["trl"]
    assert main(["env"]) == 0
    assert capsys.readouterr().err == f"warning: {old_trl}\n"


def test_training_names_it_too(model, pairs, tmp_path, old_trl, capsys):
    assert train(model, pairs, tmp_path / "out", "--max_steps", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not tested" in line] == [f"warning   {old_trl}"]
    assert lines[1].startswith("warning")  # after the first line, before anything that such a version may break


def test_this_installation_is_tested():
    assert {"torch", "transformers", "peft", "trl"} <= set(environment.tested_ranges())
    assert describe_environment()["untested"] == {}
