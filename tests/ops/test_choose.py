"""Kernels are used where they were seen to work, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.utils.checkpoint

from ropo.ops import choose
from ropo.ops.choose import kernels_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_tried() -> Iterator[None]:
    choose._tried.cache_clear()
    yield
    choose._tried.cache_clear()


@pytest.fixture(params=["cpu", "gpu"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> choose.Family:
    """Kernels that would be used on this CPU, if they pass: these alone."""
    monkeypatch.setenv("TRITON_INTERPRET", "1" if request.param == "gpu" else "0")
    monkeypatch.setattr(choose, "find_spec", lambda name: name == "triton")
    monkeypatch.setattr(choose, "compiler", lambda: "cc" if request.param == "cpu" else None)
    return request.param


def untried(device: torch.device, family: choose.Family) -> list[float]:
    pytest.fail("was tried")


def test_kernels_that_cannot_be_made_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "compiler", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernels_on(CPU, untried) is None


def test_kernels_for_cpus_are_not_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "compiler", lambda: "cc")
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    assert kernels_on(torch.device("cuda"), untried) is None


def test_kernels_are_tried_once_and_then_trusted(family: choose.Family) -> None:
    tried: list[tuple[torch.device, choose.Family]] = []

    def trial(device: torch.device, family: choose.Family) -> list[float]:
        tried.append((device, family))
        return [0.0, 1e-7]

    assert kernels_on(CPU, trial) == family
    assert kernels_on(CPU, trial) == family
    assert tried == [(CPU, family)]


@pytest.mark.parametrize("worst", [1e-3, float("nan"), float("inf")])
def test_kernels_that_are_off_are_not_used(family: choose.Family, worst: float) -> None:
    with pytest.warns(UserWarning, match=f"{family.upper()} kernels do not work on cpu; .* slower: they are off by"):
        assert kernels_on(CPU, lambda device, family: [1e-7, worst]) is None


def test_kernels_that_do_not_run_are_not_used(family: choose.Family) -> None:
    def trial(device: torch.device, family: choose.Family) -> list[float]:
        raise RuntimeError("no kernel image is available for execution on the device")

    with pytest.warns(UserWarning, match="RuntimeError: no kernel image is available"):
        assert kernels_on(CPU, trial) is None


def test_a_trial_is_not_disturbed_by_what_goes_on(family: choose.Family) -> None:
    """Not by autocast, which narrows products, nor by inference mode, which records no gradients."""

    def trial(device: torch.device, family: choose.Family) -> list[float]:
        leaf = torch.randn(8, 8, requires_grad=True)
        product = leaf @ leaf
        assert product.dtype == torch.float32
        assert torch.autograd.grad(product.sum(), leaf)
        return [0.0]

    with torch.inference_mode(), torch.autocast("cpu"):
        assert kernels_on(CPU, trial) == family


def test_a_trial_in_a_checkpointed_layer_leaves_no_trace(monkeypatch):
    """It runs in the first forward pass only, and a checkpoint counts what the second one saves."""
    asked = []

    def trial(device, family):
        leaf = torch.ones(3, requires_grad=True)
        (leaf * leaf).sum().backward()
        asked.append(family)
        return [0.0]

    monkeypatch.setattr(choose, "_available", lambda family, device: family == "cpu")

    def layer(x):
        assert choose.kernels_on(x.device, trial) == "cpu"
        return x * x

    x = torch.ones(2, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert asked == ["cpu"], "the second pass finds the first one's answer"
    assert x.grad.tolist() == [2.0, 2.0]
