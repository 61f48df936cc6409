"""Kernels are used where they were seen to work, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ropo.kernels import trust, works_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_tried() -> Iterator[None]:
    trust._tried.cache_clear()
    yield
    trust._tried.cache_clear()


@pytest.fixture(params=["cpu", "gpu"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> trust.Family:
    """Kernels that would be used on this CPU, if they pass."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(trust, "find_spec", lambda name: name == "triton")
    monkeypatch.setattr(trust, "compiler", lambda: "cc")
    return request.param


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_kernels_that_cannot_be_made_are_not_even_tried(family: trust.Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "compiler", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not works_on(CPU, family, lambda device, family: pytest.fail("was tried"))


def test_kernels_for_cpus_are_not_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "compiler", lambda: "cc")
    assert not works_on(torch.device("cuda"), "cpu", lambda device, family: pytest.fail("was tried"))


def test_kernels_are_tried_once_and_then_trusted(family: trust.Family) -> None:
    tried: list[tuple[torch.device, trust.Family]] = []

    def trial(device: torch.device, family: trust.Family) -> list[float]:
        tried.append((device, family))
        return [0.0, 1e-7]

    assert works_on(CPU, family, trial)
    assert works_on(CPU, family, trial)
    assert tried == [(CPU, family)]


@pytest.mark.parametrize("worst", [1e-3, float("nan"), float("inf")])
def test_kernels_that_are_off_are_not_used(family: trust.Family, worst: float) -> None:
    with pytest.warns(UserWarning, match=f"{family.upper()} kernels do not work on cpu; .* slower: they are off by"):
        assert not works_on(CPU, family, lambda device, family: [1e-7, worst])


def test_kernels_that_do_not_run_are_not_used(family: trust.Family) -> None:
    def trial(device: torch.device, family: trust.Family) -> list[float]:
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.warns(UserWarning, match="RuntimeError: no kernel image is available"):
        assert not works_on(CPU, family, trial)
