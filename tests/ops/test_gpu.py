"""The Triton kernels as far as a CPU can try them: run by Triton's interpreter and compiled for GPUs."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

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
    assert "91 passed" in printed


@with_triton
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    printed = run(str(HERE / "compiled.py"), TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(HERE.parents[1] / "src"))
    assert printed.splitlines()[-1] == "compiled 14"
