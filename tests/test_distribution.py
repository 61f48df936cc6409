"""The wheel and the sdist hold what is needed, and what is installed from them works where nothing else of ours is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import write_pairs
from tests.tiny.sampled import save_tiny

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "ropo"
BUILT = ("README.md", "LICENSE", "pyproject.toml", "src")  # what a build reads
# setuptools leaves its own output in the source folder, so a copy is built.
BUILD = "import sys; from setuptools import build_meta as build; print(getattr(build, sys.argv[1])(sys.argv[2]))"

pytestmark = pytest.mark.skipif(not find_spec("setuptools"), reason="setuptools, which builds, is not installed")


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel, which is built from the sdist as `python -m build` does, and the sdist."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in BUILT:
        run("cp", "-r", REPOSITORY / name, source / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run(sys.executable, "-c", BUILD, "build_sdist", folder, cwd=source, env=environment)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=unpacked, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


def test_the_wheel_holds_every_file_of_the_package(built):
    kept = {
        f"ropo/{file.relative_to(PACKAGE)}"
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        points = wheel.read(next(each for each in names if each.endswith("entry_points.txt"))).decode()
        metadata = wheel.read(next(each for each in names if each.endswith("METADATA"))).decode()
    assert kept | {"ropo_autoload.py"} == {name for name in names if ".dist-info/" not in name}
    assert {"ropo/ops/cpu/rotation.c", "ropo/ops/cpu/tile.h", "ropo/py.typed"} <= kept
    assert any(name.startswith("ropo/report/templates/") for name in kept)
    assert "ropo = ropo.cli.main:entry" in points
    assert "ropo = ropo_autoload:at_torch_import" in points
    for extra in ("gguf", "evaluation", "report", "quantised"):
        assert f"Provides-Extra: {extra}\n" in metadata


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """An environment without ropo, into which the wheel is installed; its libraries are lent by this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    (own,) = folder.glob("lib/python*/site-packages")
    lent = folder / "lent"
    lent.mkdir()
    for library in (Path(find_spec("torch").origin).parents[1]).iterdir():
        if "ropo" not in library.name and library.suffix != ".pth":
            (lent / library.name).symlink_to(library)
    command = ["pip", "install", "--no-index", "--no-deps", "--quiet", "--target", own, built[0]]
    run(sys.executable, "-m", *command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return python, {**environment, "PYTHONPATH": str(lent), "XDG_CACHE_HOME": str(folder / "cache")}


def test_what_is_installed_trains(installed, tmp_path):
    python, environment = installed
    options = {"cwd": tmp_path, "env": environment}
    where = run(python, "-c", "import ropo, ropo_autoload; print(ropo.__file__, ropo_autoload.__file__)", **options)
    assert all(Path(each).is_relative_to(python.parents[1]) for each in where.split())
    told = run(python, "-m", "ropo", "env", **options)
    assert "ropo" in told
    flags = ["--model", save_tiny(tmp_path / "model"), "--data", write_pairs(tmp_path / "pairs.jsonl")]
    run(python, "-m", "ropo", "train", *flags, "--output", "out", "--max_steps", 2, "--use_cpu", **options)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "out" / "run.json").is_file()
    # A program that knows nothing of ropo reads it, through the entry point that the wheel has.
    read = "from peft import PeftConfig; print(PeftConfig.from_pretrained('out').peft_type)"
    assert "ROPO" in run(python, "-c", f"import torch; {read}", **options)
