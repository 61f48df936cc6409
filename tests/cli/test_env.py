"""`ropo env`."""

from __future__ import annotations

import json

import torch

from ropo import environment
from ropo.cli.main import main
from ropo.environment import describe_environment


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


def test_an_untested_version_is_named(monkeypatch, capsys):
    versions = {**environment.library_versions(), "trl": "0.1.0"}
    monkeypatch.setattr(environment, "library_versions", lambda: versions)
    assert list(describe_environment()["untested"]) == ["trl"]
    assert main(["env"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("warning: trl 0.1.0 is not tested with ropo; tested is trl")


def test_this_installation_is_tested():
    assert {"torch", "transformers", "peft", "trl"} <= set(environment.tested_ranges())
    assert describe_environment()["untested"] == {}
