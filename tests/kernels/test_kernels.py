"""The Triton kernels as far as a CPU can try them: run by Triton's interpreter, compiled for GPUs, trusted or not."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ropo.kernels import fused_on, trust

HERE = Path(__file__).parent
CPU = torch.device("cpu")

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here: pip install triton, on Linux")


def run(*command: str, **environment: str) -> str:
    """Run in a process of its own: Triton reads its environment when it is imported, and shape checks trouble it."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@with_triton
def test_interpreted_kernels_equal_plain_pytorch() -> None:
    options = ("-o", "addopts=", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    # NumPy's, of Triton's interpreter
    quiet = ("-W", "ignore:Conversion of an array with ndim:DeprecationWarning")
    printed = run("-m", "pytest", *options, *quiet, str(HERE / "interpreted.py"), TRITON_INTERPRET="1")
    assert "88 passed" in printed


@with_triton
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    printed = run(str(HERE / "compiled.py"), TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(HERE.parents[1] / "src"))
    assert printed.splitlines()[-1] == "compiled 14"


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which the kernels would be used, if they pass."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(trust, "find_spec", lambda name: name == "triton")
    trust._tried.cache_clear()


def test_a_cpu_has_no_kernels() -> None:
    assert not fused_on(CPU, lambda device: pytest.fail("was tried"))


@pytest.mark.usefixtures("interpreter")
def test_kernels_are_tried_once_and_then_trusted() -> None:
    tried: list[torch.device] = []

    def differences(device: torch.device) -> list[float]:
        tried.append(device)
        return [0.0, 1e-7]

    assert fused_on(CPU, differences)
    assert fused_on(CPU, differences)
    assert tried == [CPU]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("worst", [1e-3, float("nan"), float("inf")])
def test_kernels_that_are_off_are_not_used(worst: float) -> None:
    with pytest.warns(UserWarning, match="do not work on cpu; plain PyTorch is slower: they are off by"):
        assert not fused_on(CPU, lambda device: [1e-7, worst])


@pytest.mark.usefixtures("interpreter")
def test_kernels_that_do_not_run_are_not_used() -> None:
    def differences(device: torch.device) -> list[float]:
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.warns(UserWarning, match="RuntimeError: no kernel image is available"):
        assert not fused_on(CPU, differences)
