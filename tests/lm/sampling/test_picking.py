"""Tokens picked by inverting the cumulative distribution."""

from __future__ import annotations

import pytest
import torch

from ropo.lm.sampling import picking
from ropo.lm.sampling.picking import pick_tokens


def frequencies(probabilities, temperature=1.0, top_p=1.0, draws=4000):
    logits = torch.tensor(probabilities).log().expand(draws, -1)
    uniforms = (torch.arange(draws) + 0.5).double() / draws
    picked = pick_tokens(logits, uniforms, temperature, top_p)
    return torch.bincount(picked, minlength=len(probabilities)) / draws


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_frequencies_are_the_softmax(order):
    probabilities = [(0.5, 0.3, 0.15, 0.05)[place] for place in order]
    # an even grid of uniform numbers misses each share by at most one step of the grid
    torch.testing.assert_close(frequencies(probabilities), torch.tensor(probabilities), atol=1 / 4000, rtol=0)


def test_temperature_sharpens():
    squared = torch.tensor([0.5, 0.3, 0.2]) ** 2
    found = frequencies([0.5, 0.3, 0.2], temperature=0.5)
    torch.testing.assert_close(found, squared / squared.sum(), atol=1 / 4000, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.5, [1.0, 0, 0]), (0.75, [5 / 8, 3 / 8, 0]), (0.85, [0.5, 0.3, 0.2])]
)
@pytest.mark.parametrize("candidates", [1, 3, 512])
def test_nucleus_is_the_smallest_set_with_the_mass(top_p, expected, candidates, monkeypatch):
    monkeypatch.setattr(picking, "NUCLEUS_CANDIDATES", candidates)  # 1: the rows need the full sort
    found = frequencies([0.5, 0.3, 0.2], top_p=top_p)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1 / 4000, rtol=0)


def test_wide_and_narrow_rows_together(monkeypatch):
    monkeypatch.setattr(picking, "NUCLEUS_CANDIDATES", 2)
    flat, peaked = [0.25, 0.25, 0.25, 0.25], [0.01, 0.01, 0.97, 0.01]
    logits = torch.tensor([flat, peaked]).repeat(4, 1).log()
    uniforms = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64).repeat_interleave(2)
    picked = pick_tokens(logits, uniforms, 1.0, 0.95).view(4, 2)
    assert picked[:, 1].tolist() == [2, 2, 2, 2]
    assert sorted(picked[:, 0].tolist()) == [0, 1, 2, 3]


def test_a_token_without_probability_is_never_picked():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(3, -1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert pick_tokens(logits, uniforms, 1.0, 1.0).tolist() == [1, 3, 3]


def test_temperature_zero_takes_the_likeliest():
    assert pick_tokens(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0.99]), 0.0, 0.5).tolist() == [1]
