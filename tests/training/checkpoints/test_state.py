"""State through disk, bit for bit, without pickles."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ropo.training.checkpoints.state import load_state, random_state, save_state, set_random_state


def test_nested_state_comes_back_bit_for_bit(tmp_path):
    shared = torch.tensor([1.1, float("nan"), -0.0])
    state = {
        "state": {
            0: {"step": torch.tensor(3.0), "exp_avg": shared},
            7: {"same": shared, "bytes": torch.arange(3).byte()},
        },
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "fused": None, "flag": True, "name": "x", 3: float("inf")}],
        "empty": {"list": [], "tuple": (), "dict": {}, "tensor": torch.empty(0, 2)},
        "strided": torch.arange(6).view(2, 3).T,
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    save_state(state, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    _assert_same(load_state(tmp_path / "a"), state)


def _assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.flatten().view(torch.uint8).tolist() == expected.flatten().view(torch.uint8).tolist()
        assert found.data_ptr() % 64 == 0 or not found.numel()  # kernels may round otherwise
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            _assert_same(*pair)
    else:
        assert found == expected


def test_what_is_not_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="holds a set, which is neither"):
        save_state({"x": {1, 2}}, tmp_path / "a")


def test_all_generators_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()

    random.gauss(0, 1)  # leaves its second number for the next call, as NumPy's does
    np.random.randn()
    save_state(random_state(), tmp_path / "a")
    expected = draw()
    assert draw() != expected
    set_random_state(load_state(tmp_path / "a"))
    assert draw() == expected
