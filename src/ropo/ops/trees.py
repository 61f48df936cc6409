"""Both trees' matrices from their angles, and the angles' gradient from the matrices'; and where each angle goes."""

from __future__ import annotations

__all__ = ()

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropo.ops.reference import tree_levels

MAX_BLOCK = 32
"""Coordinates in a block: smaller ones make the coarse product larger, larger ones the products inside the blocks."""


@dataclass(frozen=True)
class _TreePlan:
    """Index tables of one part of the tree: its fine levels inside blocks, or its coarse levels across them.

    A tree restricted to L levels over a block of 2^L coordinates is a matrix A that `x @ A` applies. Each coordinate i
    meets one plane a level, on its first (bit l of i is 0) or second side (1). With f_l(i) the factor by which that
    plane passes i on to the block's first coordinate (cos or sin) and g_l(i) the one to its partner (-sin or cos),

        A[i, i with its l low bits cleared and bit l set] = f_0(i) ... f_{l-1}(i) g_l(i)      for l < L
        A[i, 0]                                           = f_0(i) ... f_{L-1}(i)

    and all else is zero: like a Haar wavelet basis, with L + 1 entries a row. Both trees stand behind one another: the
    reverse tree as A, the forward tree as the transpose of the same matrix with the angles' signs turned.

    Args:
        blocks: Number of blocks.
        size: Coordinates in a block, a power of two.
        factors: (2, 2, L + 1, blocks * size) positions in the table of `angle_table`: f behind a leading row of ones
            (for a running product) and g before a closing row of ones; for the reverse and the forward tree.
        entries: (2, L + 1, blocks * size) positions of the matrix entries in the two flattened stacks of blocks.
        angles: (2, L, blocks * size) positions of the coordinates' angles in the flattened parameter, or one behind its
            end where there is no plane.
    """

    blocks: int
    size: int
    factors: Int[Tensor, "2 2 levels coordinates"]
    entries: Int[Tensor, "2 levels coordinates"]
    angles: Int[Tensor, "2 levels_less_one coordinates"]


@lru_cache(maxsize=64)
def fine_plan(dim: int, trees: int, device: torch.device) -> _TreePlan:
    """Plan the levels inside blocks of at most `MAX_BLOCK` coordinates; the last block may reach beyond `dim`."""
    size = block_size(dim)
    return _plan(dim, trees, unit=1, blocks=-(-dim // size), size=size, device=device)


@lru_cache(maxsize=64)
def coarse_plan(dim: int, trees: int, device: torch.device) -> _TreePlan:
    """Plan the levels above the blocks, which act on the first coordinate of each block, as one block."""
    unit = block_size(dim)
    blocks = -(-dim // unit)
    return _plan(dim, trees, unit=unit, blocks=1, size=1 << (blocks - 1).bit_length(), device=device)


def block_size(dim: int) -> int:
    """Return the number of coordinates in a block: a power of two, at most `MAX_BLOCK`."""
    return min(MAX_BLOCK, 1 << (dim - 1).bit_length())


def _plan(dim: int, trees: int, unit: int, blocks: int, size: int, device: torch.device) -> _TreePlan:
    depth = size.bit_length() - 1
    place = torch.arange(blocks * size)
    table = _Table(planes=dim - 1, trees=trees)
    plane, second = _planes_of(place * unit, dim, first_level=unit.bit_length() - 1, depth=depth)
    ones = torch.full((1, blocks * size), table.one)
    factors: list[Tensor] = []
    entries: list[Tensor] = []
    angles: list[Tensor] = []
    for tree, turned in (("reverse", False), ("forward", True)):
        start = table.start(tree)
        missing = (plane < 0) | (start < 0)  # no such plane, or the whole tree left out: the identity
        cos = torch.where(missing, table.one, start + plane)
        sin = torch.where(missing, table.zero, start + plane + table.sin)
        minus_sin = torch.where(missing, table.zero, start + plane + table.minus_sin)
        angles.append(torch.where(missing, trees * (dim - 1), start + plane))
        if turned:
            sin, minus_sin = minus_sin, sin
        to_first, to_partner = torch.where(second, sin, cos), torch.where(second, cos, minus_sin)
        factors.append(torch.stack([torch.cat([ones, to_first]), torch.cat([to_partner, ones])]))
        entries.append(_entries_of(place, size, depth, transposed=turned, offset=len(entries) * blocks * size * size))
    stacked = torch.stack(factors, dim=1)
    tables = (tensor.to(device) for tensor in (stacked, torch.stack(entries), torch.stack(angles)))
    return _TreePlan(blocks, size, *tables)


@dataclass(frozen=True)
class _Table:
    """Positions in the table [cos of all angles, sin of all angles, -sin of all angles, 1, 0]."""

    planes: int
    trees: int

    @property
    def sin(self) -> int:
        return self.trees * self.planes

    @property
    def minus_sin(self) -> int:
        return 2 * self.trees * self.planes

    @property
    def one(self) -> int:
        return 3 * self.trees * self.planes

    @property
    def zero(self) -> int:
        return self.one + 1

    def start(self, tree: str) -> int:
        """Position of a tree's first cosine, or -1 where the layer has no such tree."""
        row = ("forward", "reverse").index(tree)
        return row * self.planes if row < self.trees else -1


def _planes_of(coordinate: Tensor, dim: int, first_level: int, depth: int) -> tuple[Tensor, Tensor]:
    """Return, a level a row, each coordinate's plane (or -1) among all angles, and whether it stands second in it."""
    sizes = [planes for _, planes in tree_levels(dim)]
    planes, seconds = [], []
    for level in range(first_level, first_level + depth):
        stride = 1 << level
        plane = coordinate // (2 * stride)
        exists = plane * 2 * stride + stride < dim
        planes.append(torch.where(exists, plane + sum(sizes[:level]), -1))
        seconds.append((coordinate // stride) % 2 == 1)
    if not depth:
        return coordinate.new_empty((0, len(coordinate))), coordinate.new_empty((0, len(coordinate)), dtype=torch.bool)
    return torch.stack(planes), torch.stack(seconds)


def _entries_of(place: Tensor, size: int, depth: int, transposed: bool, offset: int) -> Tensor:
    row = place % size
    columns = [((row >> level) | 1) << level for level in range(depth)] + [torch.zeros_like(row)]
    base = offset + (place // size) * size * size
    return torch.stack([base + (column * size + row if transposed else row * size + column) for column in columns])


class _TreeFactors(NamedTuple):
    """What a `_TreePlan` looks up in the angles of some layers, for the reverse tree and the forward tree.

    Args:
        down: (layers, 2, L + 1, N), ones and then f_0 .. f_{L-1}.
        across: (layers, 2, L + 1, N), g_0 .. g_{L-1} and then ones.
        products: (layers, 2, L + 1, N), running products of `down`.
    """

    down: Float[Tensor, "layers 2 levels coordinates"]
    across: Float[Tensor, "layers 2 levels coordinates"]
    products: Float[Tensor, "layers 2 levels coordinates"]


def angle_table(angles: Float[Tensor, "layers angles"]) -> Float[Tensor, "layers entries"]:
    """Return [cos, sin, -sin of all angles, 1, 0] for each layer."""
    sin = angles.sin()
    return torch.cat([angles.cos(), sin, -sin, angles.new_ones(len(angles), 1), angles.new_zeros(len(angles), 1)], 1)


def tree_factors(table: Float[Tensor, "layers entries"], plan: _TreePlan) -> _TreeFactors:
    """Look the factors up and multiply them along the levels."""
    down, across = table[:, plan.factors].unbind(1)
    return _TreeFactors(down, across, down.cumprod(2))


def tree_matrices(factors: _TreeFactors, plan: _TreePlan) -> Float[Tensor, "layers 2 blocks size size"]:
    """Fill in the matrices that `_TreePlan` describes, for the reverse and for the forward tree."""
    entries = (factors.products * factors.across).flatten(1)
    flat = entries.new_zeros(len(entries), 2 * plan.blocks * plan.size**2)
    flat.scatter_(1, plan.entries.view(1, -1).expand_as(entries), entries)
    return flat.view(-1, 2, plan.blocks, plan.size, plan.size)


def add_angle_gradient(
    total: Float[Tensor, "layers angles_and_one"],
    grad: Float[Tensor, "layers 2 blocks size size"],
    factors: _TreeFactors,
    plan: _TreePlan,
) -> None:
    """Add to `total` what the angles owe to a gradient of the matrices.

    With P_l the running product f_0 .. f_{l-1}, an entry on level l is P_l g_l; f' = g and g' = -f. Going up the levels
    with D_{l+1}, the gradient of P_{l+1}, and E_l, the gradient of the entry,

        d angle_l = sum over its coordinates of P_l (D_{l+1} g_l - E_l f_l),     D_l = D_{l+1} f_l + E_l g_l

    and the sign turned for the forward tree, whose angles enter with the opposite sign.

    Args:
        total: (layers, angles + 1) accumulator; its last column collects what belongs to no plane.
        grad: Gradient of `tree_matrices`.
        factors: The factors that made the matrices.
        plan: The plan that made the factors.
    """
    levels = plan.angles.shape[1]
    if not levels:
        return
    owed = grad.flatten(1)[:, plan.entries]
    direct = owed * factors.across
    above = [owed[:, :, levels]]
    for level in range(levels - 1, 0, -1):
        above.append(torch.addcmul(direct[:, :, level], above[-1], factors.down[:, :, level + 1]))
    passed = torch.stack(above[::-1], dim=2) * factors.across[:, :, :levels]
    share = factors.products[:, :, :levels] * passed.addcmul_(owed[:, :, :levels], factors.down[:, :, 1:], value=-1)
    share[:, 1].neg_()
    total.index_add_(1, plan.angles.view(-1), share.flatten(1))
