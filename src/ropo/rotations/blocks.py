"""RoPO's rotation as small matrices: built from the parameters once, cheap to multiply with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropo.rotations.plan import coarse_plan, fine_plan
from ropo.rotations.trees import TreeFactors, add_angle_gradient, angle_table, tree_factors, tree_matrices


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
        The blocks, once differentiable with respect to both parameters, in their dtype.

    Raises:
        ValueError: If both parameters are None.

    Cost: O(d B + (d / B)^2) numbers and some thirty operations on small tensors; nothing of size d x d. The gradient is
    written out by hand because recording those operations one by one costs three times as much.
    """
    like = givens if givens is not None else reflections
    if like is None:
        raise ValueError("a rotation without givens and without reflections is the identity; leave it out")
    angles = like.new_empty(0, dim - 1) if givens is None else givens
    vectors = like.new_empty(0, dim) if reflections is None else reflections
    return RotationBlocks(*_Build.apply(angles, vectors))


class _Build(torch.autograd.Function):
    """From angles and vectors to blocks, equation by equation, and back in the opposite order.

        local = reverse forward                       coarse = coarse_reverse coarse_forward - I
        U = vectors / norms                           H = I - U^T T U, reflect = -T
        turned = U R_tree^T = U local^T + (coarse (U . row)) column
        read = [column, turned]                       write = [row, U]

    with `column` the first column of each reverse block and `row` the first row of each forward block. The reflections
    read x and not the rotated x, so their vectors are turned beforehand.
    """

    @staticmethod
    def forward(ctx: Any, angles: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(angles.device.type, enabled=False):
            plans = [plan(vectors.shape[1], angles.shape[0], angles.device) for plan in (fine_plan, coarse_plan)]
            table = angle_table(angles.reshape(-1))
            factors = [tree_factors(table, plan) for plan in plans]
            (reverse, forward), coarse_trees = (tree_matrices(*pair) for pair in zip(factors, plans, strict=True))
            blocks, size, _ = reverse.shape
            column, row = reverse[:, :, :1].mT, forward[:, :1]
            local = reverse @ forward
            coarse = (coarse_trees[0, 0] @ coarse_trees[1, 0])[:blocks, :blocks].contiguous()
            coarse.diagonal().sub_(1)
            norms, units, reflect = _compact_reflections(vectors)
            cut = _cut(units, blocks, size)
            turned = torch.baddbmm((coarse @ (cut @ row.mT).squeeze(-1)).unsqueeze(-1) * column, cut, local.mT)
            ctx.plans, ctx.shapes = plans, (angles.shape, vectors.shape)
            ctx.save_for_backward(
                *factors[0], *factors[1], reverse, forward, coarse_trees, local, coarse, norms, units, reflect
            )
            return local, torch.cat([column, turned], 1), torch.cat([row, cut], 1), coarse, reflect

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        saved = ctx.saved_tensors
        reverse, forward, coarse_trees, local, coarse, norms, units, reflect = saved[6:]
        d_local, d_read, d_write, d_coarse, d_reflect = grads
        with torch.autocast(local.device.type, enabled=False):
            blocks, size, _ = local.shape
            column, row = reverse[:, :, 0], forward[:, 0]

            cut, d_turned = _cut(units, blocks, size), d_read[:, 1:]
            along, d_along = (cut @ row.unsqueeze(-1)).squeeze(-1), (d_turned @ column.unsqueeze(-1)).squeeze(-1)
            back = coarse.mT @ d_along
            d_column = d_read[:, 0] + ((coarse @ along).unsqueeze(1) @ d_turned).squeeze(1)
            d_row = d_write[:, 0] + (back.unsqueeze(1) @ cut).squeeze(1)
            d_cut = torch.baddbmm(d_write[:, 1:], d_turned, local).addcmul_(back.unsqueeze(-1), row.unsqueeze(1))
            d_local, d_coarse = torch.baddbmm(d_local, d_turned.mT, cut), torch.addmm(d_coarse, d_along, along.mT)

            d_trees = torch.stack([d_local @ forward.mT, reverse.mT @ d_local])
            d_trees[0, :, :, 0] += d_column
            d_trees[1, :, 0] += d_row
            over = coarse_trees.shape[-1] - blocks
            d_coarse = functional.pad(d_coarse, (0, over, 0, over))
            d_coarse_trees = torch.stack([d_coarse @ coarse_trees[1, 0].mT, coarse_trees[0, 0].mT @ d_coarse])

            angles_shape, vectors_shape = ctx.shapes
            d_angles = local.new_zeros(angles_shape.numel() + 1)
            add_angle_gradient(d_angles, d_trees, TreeFactors(*saved[:3]), ctx.plans[0])
            add_angle_gradient(d_angles, d_coarse_trees.unsqueeze(1), TreeFactors(*saved[3:6]), ctx.plans[1])
            d_units = d_cut.transpose(0, 1).reshape(len(units), blocks * size)[:, : vectors_shape[1]]
            d_vectors = _compact_reflections_gradient(norms, units, reflect, d_units, d_reflect)
            return d_angles[:-1].view(angles_shape), d_vectors


def _compact_reflections(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return norms, unit rows U and -T with H(u_1) ... H(u_k) = I - U^T T U.

    The compact WY form (Schreiber and Van Loan, 1989): T^-1 is the upper triangle of U U^T with halves on its diagonal.
    """
    norms = vectors.norm(dim=1, keepdim=True)
    units = vectors / norms
    inverse = (units @ units.mT).triu(1)
    inverse.diagonal().add_(0.5)
    identity = torch.eye(len(units), dtype=units.dtype, device=units.device)
    return norms, units, -torch.linalg.solve_triangular(inverse, identity, upper=True)


def _compact_reflections_gradient(
    norms: Tensor, units: Tensor, reflect: Tensor, d_units: Tensor, d_reflect: Tensor
) -> Tensor:
    """Return the vectors' gradient: d T^-1 = -T^T dT T^T, and a unit vector's gradient is orthogonal to it."""
    d_inverse = (reflect.mT @ d_reflect @ reflect.mT).triu(1)
    d_units = d_units + (d_inverse + d_inverse.mT) @ units
    return (d_units - (d_units * units).sum(1, keepdim=True) * units) / norms


def _cut(rows: Tensor, blocks: int, size: int) -> Tensor:
    """Cut (k, d) rows into (blocks, k, size), zeros behind the last coordinate."""
    padded = functional.pad(rows, (0, blocks * size - rows.shape[1]))
    return padded.view(len(rows), blocks, size).transpose(0, 1)
