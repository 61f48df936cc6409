"""What holds for every rotation, whatever its width, parts, angles and dtype."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ropo.ops import build_blocks, ropo_rotation

EPSILON = {torch.float32: 2e-6, torch.float64: 1e-13}  # some ten products of unit vectors, each rounded once


@st.composite
def rotations(draw, most: int = 300):
    """Draw a width, angles or none, vectors or none (not both none), and the dtype of the activations."""
    dim = draw(st.integers(2, most) | st.sampled_from((32, 33, 64, 128, 255, 257)))
    trees, reflections = draw(st.sampled_from([(2, 2), (2, 0), (1, 2), (1, 0), (0, 2), (2, 4), (0, 6)]))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    scale = draw(st.sampled_from((1e-3, 1.0, 100.0)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    givens = scale * randn(trees, dim - 1) if trees else None
    vectors = scale * randn(reflections, dim) if reflections else None
    return randn(*draw(st.sampled_from([(dim,), (1, dim), (3, 5, dim), (0, dim)]))), givens, vectors


def both(x: Tensor, givens: Tensor | None, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rotate the fast way, and the readable way in float64."""
    wide = [None if part is None else part.double() for part in (givens, vectors)]
    return build_blocks(x.shape[-1], givens, vectors).apply(x), ropo_rotation(x.shape[-1], *wide).apply(x.double())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rotations())
def test_the_fast_way_is_the_readable_one_and_keeps_lengths_and_angles(case) -> None:
    x, givens, vectors = case
    fast, readable = both(x, givens, vectors)
    tolerance = EPSILON[x.dtype] * (1 + x.norm().item())
    # angles of hundreds of radians are reduced in the parameters' own dtype
    turns = 1.0 if givens is None else max(1.0, givens.abs().max().item() / 6)
    assert fast.shape == x.shape
    assert fast.dtype == x.dtype
    assert (fast.double() - readable).norm() <= tolerance * turns
    assert (fast.norm(dim=-1) - x.norm(dim=-1)).abs().sum() <= tolerance * 4
    rows = x.reshape(-1, x.shape[-1]).double()
    turned = readable.reshape(rows.shape)
    assert (turned @ turned.T - rows @ rows.T).abs().sum() <= 1e-9 * (1 + (rows @ rows.T).abs().sum())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rotations(most=60))
def test_it_is_a_proper_rotation_with_its_transpose_as_inverse(case) -> None:
    x, givens, vectors = case
    product = ropo_rotation(x.shape[-1], *(None if part is None else part.double() for part in (givens, vectors)))
    dense = product.to_dense(torch.float64)
    identity = torch.eye(x.shape[-1], dtype=torch.float64)
    assert (dense @ dense.T - identity).abs().max() < 1e-12
    assert abs(torch.linalg.det(dense).item() - 1) < 1e-10
    assert (product.apply_transpose(product.apply(x.double())) - x.double()).norm() <= 1e-12 * (1 + x.double().norm())
