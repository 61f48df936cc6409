from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ropo.diagnostics import neuron_movement
from ropo.diagnostics.movement import cosine_changes, orthogonality_error, rotation_size
from ropo.diagnostics.pairs import all_cosines


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plane(angle: float, dim: int = 2) -> Tensor:
    rotation = torch.eye(dim, dtype=torch.float64)
    rotation[0, 0] = rotation[1, 1] = math.cos(angle)
    rotation[1, 0], rotation[0, 1] = math.sin(angle), -math.sin(angle)
    return rotation


def test_cosine_changes_against_all_pairs() -> None:
    before, after = random(60, 5), random(60, 5, seed=1)
    found = cosine_changes(all_cosines(after), all_cosines(before))
    unit = [w / w.norm(dim=1, keepdim=True) for w in (after, before)]
    upper = torch.triu(torch.ones(60, 60, dtype=torch.bool), 1)
    change = (unit[0] @ unit[0].T - unit[1] @ unit[1].T)[upper].abs()
    assert found is not None
    assert found.pairs == len(change) == 60 * 59 // 2
    assert found.largest == pytest.approx(float(change.max()), rel=1e-9)
    assert found.rms == pytest.approx(float(change.square().mean().sqrt()), rel=1e-9)
    assert found.median == pytest.approx(float(change.quantile(0.5)), rel=0.02)  # a bin is 1 % wide
    assert found.p99 == pytest.approx(float(change.quantile(0.99)), rel=0.02)


def test_rotation_changes_no_cosine() -> None:
    weight = random(30, 8)
    rotation = torch.linalg.qr(random(8, 8, seed=2))[0]
    found = cosine_changes(all_cosines(weight @ rotation), all_cosines(weight))
    assert found is not None
    assert found.largest < 1e-14
    assert found.collapsed == 0


def test_collapsed_pairs_are_those_that_fell_together() -> None:
    before = torch.eye(4)
    before[1] = torch.tensor([0.95, math.sqrt(1 - 0.95**2), 0.0, 0.0])  # rows 0 and 1 are close from the start
    after = before.clone()
    after[3] = after[2]
    found = cosine_changes(all_cosines(after), all_cosines(before))
    assert found is not None
    assert (found.pairs, found.collapsed) == (6, 1)


def test_no_pair_has_no_change() -> None:
    assert cosine_changes(all_cosines(torch.ones(1, 3)), all_cosines(torch.ones(1, 3))) is None
    assert neuron_movement(torch.ones(0, 3), torch.ones(0, 3)) is None


def test_neuron_movement_of_a_known_turn() -> None:
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    after = torch.stack([before[0] @ plane(math.pi / 6).T, 1.5 * before[1]])
    found = neuron_movement(after, before)
    assert found is not None
    assert found.turn_largest == pytest.approx(30.0)
    assert found.turn_mean == pytest.approx(15.0)
    assert (found.magnitude_smallest, found.magnitude_largest) == (pytest.approx(1.0), pytest.approx(1.5))
    assert found.distance == pytest.approx(float((after - before).norm() / before.norm()))


def test_tiny_turns_are_not_lost_to_rounding() -> None:
    before = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    found = neuron_movement(before @ plane(1e-9).T, before)
    assert found is not None
    assert found.turn_mean == pytest.approx(math.degrees(1e-9), rel=1e-6)  # acos of the cosine would give 0


def test_rotation_size_of_a_plane() -> None:
    size = rotation_size(plane(0.3, dim=5))
    assert size.distance == pytest.approx(math.sqrt(8) * math.sin(0.15) / math.sqrt(5))
    assert size.largest_angle == pytest.approx(math.degrees(0.3))
    assert size.orthogonality_error < 1e-15


def test_orthogonality_error_of_what_is_not() -> None:
    assert orthogonality_error(torch.diag(torch.tensor([1.0, 1.1]))) == pytest.approx(0.21, rel=1e-6)
    assert orthogonality_error(torch.eye(3)) == 0.0
