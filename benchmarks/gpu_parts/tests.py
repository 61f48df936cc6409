"""The tests marked `gpu`; on a CPU, where they are tried, the CPU stands in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_parts.machine import ROOT

# Shape checks decorate functions that Triton compiles; other libraries' warnings are no news here, our own are.
OPTIONS = ("-o", "addopts=", "-q", "-p", "no:cacheprovider", "-W", "default")
OPTIONS += ("-W", "error:RoPO's:UserWarning", "-W", "error:variable-length attention:UserWarning")


def cases(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return one case: all of them."""
    return {"pytest -m gpu": lambda: run(tiny)}


def run(tiny: bool) -> dict[str, Any]:
    """Run the tests, and say how each went."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if tiny:
        environment["ROPO_TEST_GPU"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", *OPTIONS, f"--junitxml={report}"]
        command += sorted(str(file) for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text())
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise RuntimeError((done.stdout + done.stderr)[-2000:])
        tests = [describe(case) for case in ElementTree.parse(report).iter("testcase")]
    counts = {name: sum(test["outcome"] == name for test in tests) for name in ("passed", "failed", "skipped")}
    return {"ok": done.returncode == 0 and counts["passed"] > 0, **counts, "tests": tests}


def describe(case: ElementTree.Element) -> dict[str, Any]:
    """Return a test's name, outcome, seconds and, where it did not pass, why."""
    test = {"name": f"{case.get('classname')}::{case.get('name')}", "seconds": float(case.get("time", 0))}
    for kind, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (why := case.find(kind)) is not None:
            return {**test, "outcome": outcome, "why": f"{why.get('message')}\n{why.text}"[-1500:]}
    return {**test, "outcome": "passed"}
