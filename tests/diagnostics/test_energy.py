from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ropo.core.errors import UserError
from ropo.diagnostics import hyperspherical_energy
from ropo.diagnostics.energy import sampled_energy
from ropo.diagnostics.pairs import BLOCK, all_cosines


def naive_energy(weight: Tensor) -> float:
    """Follow the definition with a double loop in float64."""
    rows = weight.double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    return sum(1.0 / float((rows[i] - rows[j]).norm()) for i in range(len(rows)) for j in range(len(rows)) if i != j)


def simplex(n: int) -> Tensor:
    """Return n unit vectors in R^n with all pairwise cosines -1 / (n - 1)."""
    centred = torch.eye(n, dtype=torch.float64) - 1.0 / n
    return centred / centred.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("shape", [(2, 3), (7, 5), (40, 17), (33, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_the_double_loop(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert hyperspherical_energy(weight) == pytest.approx(naive_energy(weight), rel=1e-12)


def test_blocks_cover_every_pair_once() -> None:
    weight = torch.randn(2 * BLOCK + 5, 3, generator=torch.Generator().manual_seed(0))
    blocks = list(all_cosines(weight))
    assert len(blocks) == 6
    assert sum(map(len, blocks)) == len(weight) * (len(weight) - 1) // 2
    unit = weight.double() / weight.double().norm(dim=1, keepdim=True)
    distances = torch.pdist(unit)
    assert hyperspherical_energy(weight) == pytest.approx(2 * float(distances.reciprocal().sum()), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_orthonormal_rows(n: int) -> None:
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)))[0]
    assert hyperspherical_energy(basis) == pytest.approx(n * (n - 1) / math.sqrt(2), rel=1e-12)


def test_antipodal_pair() -> None:
    direction = torch.tensor([1.0, 2.0, -3.0])
    assert hyperspherical_energy(torch.stack([direction, -5.0 * direction])) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_simplex(n: int) -> None:
    distance = math.sqrt(2 + 2 / (n - 1))
    assert hyperspherical_energy(simplex(n)) == pytest.approx(n * (n - 1) / distance, rel=1e-12)


def test_rotation_and_stretching_leave_it_and_shearing_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(50, 20, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=generator))[0]
    stretch = torch.rand(50, 1, dtype=torch.float64, generator=generator) + 0.1
    energy = hyperspherical_energy(weight)
    assert hyperspherical_energy(stretch * (weight @ rotation)) == pytest.approx(energy, rel=1e-12)
    assert hyperspherical_energy(weight + 1.0) > 1.01 * energy


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_neurons_have_no_energy(n: int) -> None:
    assert hyperspherical_energy(torch.ones(n, 4)) == 0.0
    assert sampled_energy(torch.ones(n, 4)) == (0.0, 0.0)


def test_zero_rows_are_left_out() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([weight[:3], torch.zeros(2, 4), weight[3:]])
    assert hyperspherical_energy(padded) == hyperspherical_energy(weight)


def test_neurons_that_coincide_give_a_finite_energy() -> None:
    row = torch.tensor([[0.3, -0.7, 0.2]])
    assert hyperspherical_energy(torch.cat([row, 3 * row])) == pytest.approx(2e6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_what_is_not_finite(value: float) -> None:
    weight = torch.ones(3, 3)
    weight[1, 1] = value
    with pytest.raises(UserError, match="finite, has 1 "):
        hyperspherical_energy(weight)
    with pytest.raises(UserError, match="finite, has 1 "):
        sampled_energy(weight)


def test_sampled_estimate_agrees_within_its_standard_error() -> None:
    weight = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    energy = hyperspherical_energy(weight)
    errors = []
    for seed in range(40):
        estimate = sampled_energy(weight, pairs=2000, seed=seed)
        assert 0.0 < estimate.standard_error < 0.05 * energy
        errors.append((estimate.energy - energy) / estimate.standard_error)
    # 40 standard normal numbers: the mean has standard deviation 0.16, their standard deviation 0.11
    assert abs(sum(errors) / 40) < 0.5
    assert 0.67 < math.sqrt(sum(e * e for e in errors) / 40) < 1.33


def test_sampled_estimate_is_seeded() -> None:
    weight = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    assert sampled_energy(weight, 100, seed=1) == sampled_energy(weight, 100, seed=1)
    assert sampled_energy(weight, 100, seed=1) != sampled_energy(weight, 100, seed=2)
    with pytest.raises(UserError, match="at least 2 for a standard error, got 1"):
        sampled_energy(weight, 1)
