"""Both trees' matrices from their angles, and the angles' gradient from the matrices'."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ropo.ops.plan import TreePlan


class TreeFactors(NamedTuple):
    """What a `TreePlan` looks up in the angles of some layers, for the reverse tree and the forward tree.

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


def tree_factors(table: Float[Tensor, "layers entries"], plan: TreePlan) -> TreeFactors:
    """Look the factors up and multiply them along the levels."""
    down, across = table[:, plan.factors].unbind(1)
    return TreeFactors(down, across, down.cumprod(2))


def tree_matrices(factors: TreeFactors, plan: TreePlan) -> Float[Tensor, "layers 2 blocks size size"]:
    """Fill in the matrices that `TreePlan` describes, for the reverse and for the forward tree."""
    entries = (factors.products * factors.across).flatten(1)
    flat = entries.new_zeros(len(entries), 2 * plan.blocks * plan.size**2)
    flat.scatter_(1, plan.entries.view(1, -1).expand_as(entries), entries)
    return flat.view(-1, 2, plan.blocks, plan.size, plan.size)


def add_angle_gradient(
    total: Float[Tensor, "layers angles_and_one"],
    grad: Float[Tensor, "layers 2 blocks size size"],
    factors: TreeFactors,
    plan: TreePlan,
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
