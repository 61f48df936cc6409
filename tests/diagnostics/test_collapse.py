from __future__ import annotations

import math

import pytest
import torch

from ropo.diagnostics.collapse import cosine_distribution, effective_rank, isotropy
from ropo.diagnostics.pairs import all_cosines, sampled_cosines


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_distribution_of_known_cosines() -> None:
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = cosine_distribution(all_cosines(weight))  # 1, 0, -1, 0, -1, 0
    assert found is not None
    assert (found.pairs, found.largest) == (6, 1.0)
    assert found.mean == pytest.approx(-1 / 6)
    assert found.share_above_0_9 == pytest.approx(1 / 6)
    assert found.median == pytest.approx(0.0, abs=5e-4)  # a bin is 5e-4 wide


def test_quantiles_are_those_of_all_pairs() -> None:
    weight = random(400, 6)
    found = cosine_distribution(all_cosines(weight))
    cosines = torch.cat(list(all_cosines(weight)))
    assert found is not None
    assert found.pairs == len(cosines) == 400 * 399 // 2
    for value, share in ((found.p01, 0.01), (found.median, 0.5), (found.p99, 0.99)):
        assert value == pytest.approx(float(cosines.quantile(share)), abs=5e-4)
    assert found.share_above_0_9 == pytest.approx(float((cosines > 0.9).double().mean()), rel=1e-12)


def test_sampled_distribution_comes_near() -> None:
    weight = random(400, 6)
    exact, sampled = cosine_distribution(all_cosines(weight)), cosine_distribution(sampled_cosines(weight, 20_000, 0))
    assert exact is not None
    assert sampled is not None
    assert sampled.pairs == 20_000
    assert sampled.mean == pytest.approx(exact.mean, abs=0.015)  # standard error 0.41 / sqrt(20000) = 0.003
    assert sampled.mean != exact.mean


@pytest.mark.parametrize("n", [0, 1])
def test_no_pair_has_no_distribution(n: int) -> None:
    assert cosine_distribution(all_cosines(torch.ones(n, 3))) is None


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(5 * torch.eye(7)) == pytest.approx(7.0, rel=1e-9)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1.0, abs=1e-5)  # square roots of rounding add a little
    # Rows e_0, e_0, e_0, e_0, e_1: singular values 2 and 1, shares 2/3 and 1/3.
    rows = torch.eye(2)[[0, 0, 0, 0, 1]]
    expected = math.exp(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-9)
    assert effective_rank(rows.T @ torch.ones(5, 9)) is not None


def test_effective_rank_against_singular_values() -> None:
    for shape in ((20, 6), (6, 20)):
        rows = random(*shape)
        singular = torch.linalg.svdvals(rows / rows.norm(dim=1, keepdim=True))
        shares = singular / singular.sum()
        assert effective_rank(rows) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)


def test_isotropy() -> None:
    both_signs = torch.cat([torch.eye(4), -torch.eye(4)])
    assert isotropy(both_signs) == pytest.approx(1.0, rel=1e-9)
    assert isotropy(torch.ones(6, 1)) == pytest.approx(math.exp(-1) / math.exp(1), rel=1e-9)
    crowded, even = random(200, 5) + 2.0, random(200, 5)
    assert 0.0 < isotropy(crowded) < 0.5 < isotropy(even) <= 1.0


def test_zero_rows_play_no_part() -> None:
    rows = random(10, 4)
    padded = torch.cat([rows, torch.zeros(3, 4, dtype=rows.dtype)])
    assert effective_rank(padded) == effective_rank(rows)
    assert isotropy(padded) == isotropy(rows)
    assert effective_rank(torch.zeros(3, 4)) is None
    assert isotropy(torch.zeros(3, 4)) is None
