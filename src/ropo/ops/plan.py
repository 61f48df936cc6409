"""Where each angle of a tournament tree goes in the small matrices that the fast path multiplies with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from ropo.ops.givens import tree_levels

MAX_BLOCK = 32
"""Coordinates in a block: smaller ones make the coarse product larger, larger ones the products inside the blocks."""


@dataclass(frozen=True)
class TreePlan:
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
def fine_plan(dim: int, trees: int, device: torch.device) -> TreePlan:
    """Plan the levels inside blocks of at most `MAX_BLOCK` coordinates; the last block may reach beyond `dim`."""
    size = block_size(dim)
    return _plan(dim, trees, unit=1, blocks=-(-dim // size), size=size, device=device)


@lru_cache(maxsize=64)
def coarse_plan(dim: int, trees: int, device: torch.device) -> TreePlan:
    """Plan the levels above the blocks, which act on the first coordinate of each block, as one block."""
    unit = block_size(dim)
    blocks = -(-dim // unit)
    return _plan(dim, trees, unit=unit, blocks=1, size=1 << (blocks - 1).bit_length(), device=device)


def block_size(dim: int) -> int:
    """Return the number of coordinates in a block: a power of two, at most `MAX_BLOCK`."""
    return min(MAX_BLOCK, 1 << (dim - 1).bit_length())


def _plan(dim: int, trees: int, unit: int, blocks: int, size: int, device: torch.device) -> TreePlan:
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
    return TreePlan(blocks, size, *tables)


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
