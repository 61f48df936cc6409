"""`benchmarks/gpu.py`: every part runs on a CPU; an error is a record, and does not stop the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["kernels", "tests", "layer", "step", "pairs", "sampling"]


def run(output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--output", str(output), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def read(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_part_runs_on_a_cpu_and_a_second_run_has_nothing_to_do(tmp_path):
    output = tmp_path / "gpu.jsonl"
    done = run(output, "--tiny", "--budget", "1200")
    assert done.returncode == 0, done.stderr
    lines = read(output)
    assert [line for line in lines if "error" in line or not line.get("ok", True)] == []
    assert list(dict.fromkeys(line["part"] for line in lines)) == PARTS
    cases = {(line["part"], line["case"]): line for line in lines if "cases" not in line}
    assert len(cases) >= 20
    for line in cases.values():
        assert line["setting"]["device"]
        assert line["setting"]["versions"]["torch"]
        assert line["setting"]["src_tree"]
    assert cases["tests", "pytest -m gpu"]["passed"] >= 20
    assert {line["by"] for (part, name), line in cases.items() if "rotate" in name and part == "kernels"} == {
        "ropo.ops.gpu.rotation"
    }
    pairs = cases["pairs", "ultrafeedback, grouped"]
    assert pairs["tokens"]["padded"] > pairs["tokens"]["padding-free"] > pairs["tokens"]["ropo"]
    assert run(output, "--tiny").returncode == 0
    assert read(output) == lines


@pytest.fixture
def running(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_parts import machine, running

    return SimpleNamespace(machine=machine, run=running.run_cases, module=running)


def test_a_case_that_fails_leaves_its_error_and_the_next_one_runs(running, monkeypatch):
    def fail() -> dict:
        raise RuntimeError("no kernel image is available")

    cases = {"first": fail, "second": lambda: {"ok": True}, "third": lambda: pytest.fail("was left out")}
    monkeypatch.setattr(running.module, "import_module", lambda name: SimpleNamespace(cases=lambda tiny: cases))
    lines: list[dict] = []
    arguments = Namespace(child="kernels", tiny=False, leave_out=["third"], budget=100.0)
    assert running.run(arguments, lines.append) == 0
    assert [line["case"] for line in lines] == ["first", "second", "(all)"]
    assert lines[0]["error"] == "RuntimeError: no kernel image is available"
    assert "test_gpu.py" in lines[0]["where"]


def test_a_lost_device_ends_the_process_which_says_so(running, monkeypatch):
    cases = {"first": dict, "second": dict}
    monkeypatch.setattr(running.module, "import_module", lambda name: SimpleNamespace(cases=lambda tiny: cases))
    monkeypatch.setattr(running.machine, "answers", lambda: False)
    lines: list[dict] = []
    arguments = Namespace(child="kernels", tiny=False, leave_out=[], budget=100.0)
    assert running.run(arguments, lines.append) == running.module.DEVICE_LOST
    assert [line["case"] for line in lines] == ["first"]


def test_a_process_that_dies_or_hangs_leaves_a_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    output = tmp_path / "gpu.jsonl"
    arguments = gpu.parse_arguments(["--output", str(output)])
    for script, why in (("import sys; sys.exit('boom')", "status 1: boom"), ("while True: pass", "more than 2 s")):
        child = tmp_path / "child.py"
        child.write_text(script)
        monkeypatch.setattr(gpu, "__file__", str(child))
        gpu.run_part(arguments, "layer", 2.0)
        assert why in read(output)[-1]["error"]


def test_the_tree_is_named_as_git_names_it(running, tmp_path):
    for name, text in (("b.py", "1\n"), ("a/c.py", "2\n"), ("a.py", "3\n"), ("a/__pycache__/d.pyc", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    named = running.machine.tree_hash(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(tmp_path)]
    (tmp_path / ".gitignore").write_text("__pycache__\n.gitignore\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "c"]):
        subprocess.run([*git, *command], check=True)
    tree = subprocess.run([*git, "rev-parse", "HEAD^{tree}"], check=True, capture_output=True, text=True).stdout
    assert named == tree.strip()
