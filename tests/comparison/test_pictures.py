"""Pictures of neurons."""

from __future__ import annotations

import math

import pytest
import torch

from ropo.comparison.pictures import BINS, cosine_counts, cosine_edges, project_neurons
from ropo.core.errors import UserError


def test_cosines_are_counted_in_their_bins():
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    counts = cosine_counts(weight)
    edges = cosine_edges()
    assert len(edges) == len(counts) + 1 == BINS + 1
    found = {edges[number]: count for number, count in enumerate(counts) if count}
    assert found == {-1.0: 2, 0.0: 3, 0.99: 1}  # opposite twice, orthogonal three times, parallel once


def test_the_axes_are_those_of_the_largest_spread():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 0.01, 0.6, 0.01])
    reference = torch.tensor([0.0, 5.0, 0.0, 0.0]) + torch.randn(40, 4, generator=generator) * spread
    found = project_neurons("q_proj", reference, reference)
    assert found.before == found.after
    unit = reference.double() / reference.double().norm(dim=1, keepdim=True)
    places = torch.tensor(found.before)
    centred = unit - unit.mean(dim=0)
    for axis, coordinate in ((0, 2), (1, 0)):  # sign: along the axis' largest entry
        assert torch.corrcoef(torch.stack([places[:, axis], centred[:, coordinate].double()]))[0, 1] > 0.99
    shares = torch.linalg.svdvals(centred).square()
    assert found.explained == pytest.approx((shares / shares.sum())[:2].tolist())


def test_after_is_seen_on_the_axes_of_before():
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(500, 6, generator=generator)
    found = project_neurons("q_proj", 3.0 * reference, reference)
    assert len(found.before) == 300
    assert torch.allclose(torch.tensor(found.after), torch.tensor(found.before), atol=1e-6)  # lengths do not count
    moved = project_neurons("q_proj", torch.randn(500, 6, generator=generator), reference)
    assert moved.before == found.before
    assert moved.after != found.after
    assert project_neurons("q_proj", reference, reference, seed=1).before != found.before


def test_what_cannot_be_projected():
    assert project_neurons("q_proj", torch.ones(2, 4), torch.ones(2, 4)) is None
    with pytest.raises(UserError, match="must have the weight's shape"):
        project_neurons("q_proj", torch.ones(3, 4), torch.ones(4, 3))
    with pytest.raises(UserError, match="must be finite"):
        cosine_counts(torch.full((3, 2), math.nan))
