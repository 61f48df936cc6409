"""RoPO's rotation as small matrices: built from the parameters once, cheap to multiply with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.rotations.plan import TreePlan, angle_table, coarse_plan, fine_plan


class RotationBlocks(NamedTuple):
    """R = blockdiag(local) + read^T . mix . write, all that a multiplication with R needs.

    The d coordinates are cut into blocks of B. Inside a block, the fine levels of both trees act together as one B x B
    matrix. What crosses blocks goes through 1 + k channels: channel 0 is the first coordinate of each block, on which
    the coarse levels of both trees act, and channels 1 .. k are the reflections' vectors:

        y_b = x_b local_b + c'_b write_b,     c_b = x_b read_b^T,
        c'_b[0] = sum_a c_a[0] coarse[a, b],  c'_b[1:] = (sum_a c_a[1:]) reflect

    Args:
        local: (blocks, B, B).
        read: (blocks, 1 + k, B).
        write: (blocks, 1 + k, B).
        coarse: (blocks, blocks), the coarse levels less the identity.
        reflect: (k, k), minus the triangular factor of the product of reflections.
    """

    local: Float[Tensor, "blocks size size"]
    read: Float[Tensor, "blocks channels size"]
    write: Float[Tensor, "blocks channels size"]
    coarse: Float[Tensor, "blocks blocks"]
    reflect: Float[Tensor, "k k"]


def build_blocks(
    dim: int, givens: Float[Tensor, "trees planes"] | None, reflections: Float[Tensor, "k d"] | None
) -> RotationBlocks:
    """Build the small matrices of `ropo_rotation(dim, givens, reflections)`.

    Args:
        dim: Number of coordinates d.
        givens: (trees, d - 1) radians, forward tree first, or None.
        reflections: (k, d) vectors, or None.

    Returns:
        The blocks, differentiable with respect to both parameters, in their dtype.

    Cost: O(d B + (d / B)^2) numbers and some thirty operations on small tensors; nothing of size d x d.
    """
    like = givens if givens is not None else reflections
    if like is None:
        raise ValueError("a rotation without givens and without reflections is the identity; leave it out")
    with torch.autocast(like.device.type, enabled=False):
        return _build(dim, givens, reflections, like)


def _build(dim: int, givens: Tensor | None, reflections: Tensor | None, like: Tensor) -> RotationBlocks:
    trees = 0 if givens is None else givens.shape[0]
    table = angle_table(givens, like)
    reverse, forward = _tree_matrices(table, fine_plan(dim, trees, like.device))
    blocks, size, _ = reverse.shape
    coarse_reverse, coarse_forward = _tree_matrices(table, coarse_plan(dim, trees, like.device))
    coarse = (coarse_reverse[0] @ coarse_forward[0])[:blocks, :blocks] - torch.eye(
        blocks, dtype=like.dtype, device=like.device
    )
    local = reverse @ forward
    read, write = reverse[:, :, :1].mT, forward[:, :1, :]
    if reflections is None:
        return RotationBlocks(local, read, write, coarse, like.new_empty(0, 0))
    units, reflect = _compact_reflections(reflections)
    unit_blocks = _cut(units, blocks, size)
    # The vectors as the trees see them, rows of U R_tree^T: so that the reflections read x and not the rotated x.
    turned = unit_blocks @ local.mT + (coarse @ (unit_blocks @ write.mT).squeeze(-1)).unsqueeze(-1) * read
    return RotationBlocks(local, torch.cat([read, turned], 1), torch.cat([write, unit_blocks], 1), coarse, reflect)


def _tree_matrices(table: Tensor, plan: TreePlan) -> tuple[Tensor, Tensor]:
    """Fill in the matrices that `TreePlan` describes, (blocks, size, size) for the reverse and the forward tree."""
    to_first, to_partner = table[plan.factors]
    products = [to_first[:, 0]]
    for level in range(1, to_first.shape[1]):
        products.append(products[-1] * to_first[:, level])
    entries = torch.stack(products, dim=1) * to_partner
    flat = table.new_zeros(2 * plan.blocks * plan.size**2).scatter(0, plan.entries.reshape(-1), entries.reshape(-1))
    reverse, forward = flat.view(2, plan.blocks, plan.size, plan.size)
    return reverse, forward


def _compact_reflections(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit rows U and -T with H(u_1) ... H(u_k) = I - U^T T U.

    The compact WY form (Schreiber and Van Loan, 1989): T^-1 is the upper triangle of U U^T with halves on its diagonal.
    """
    units = vectors / vectors.norm(dim=1, keepdim=True)
    inverse = (units @ units.mT).triu(1) + 0.5 * torch.eye(len(units), dtype=units.dtype, device=units.device)
    identity = torch.eye(len(units), dtype=units.dtype, device=units.device)
    return units, -torch.linalg.solve_triangular(inverse, identity, upper=True)


def _cut(rows: Tensor, blocks: int, size: int) -> Tensor:
    """Cut (k, d) rows into (blocks, k, size), zeros behind the last coordinate."""
    padded = torch.nn.functional.pad(rows, (0, blocks * size - rows.shape[1]))
    return padded.view(len(rows), blocks, size).transpose(0, 1)
