"""Fixtures of every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine is slow now and then
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test at the same seed: one that fails fails again."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Put the environment back: PEFT's BOFT, for one, names a C compiler in it, with which later tests would go on."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the repository; skip where it is missing."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data of ../shared/data is not on this machine")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Return the folder of a tiny model, which nobody writes to."""
    from tests.tiny.sampled import save_tiny  # where no test asks for a model, nothing of this is loaded

    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def gpu() -> torch.device:
    """Return the GPU; skip where there is none.

    ROPO_TEST_GPU=cpu lets the CPU stand in, so that a test is known to run before a GPU is at hand.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if os.environ.get("ROPO_TEST_GPU") == "cpu":
        return torch.device("cpu")
    pytest.skip("needs a CUDA device")
