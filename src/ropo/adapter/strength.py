"""Turn a rotation part of its way: the same planes, t times the angles."""

from __future__ import annotations

__all__ = ()

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def turned_partly(
    givens: Float[Tensor, "trees planes"] | None, reflections: Float[Tensor, "k d"] | None, strength: float
) -> tuple[Float[Tensor, "trees planes"] | None, Float[Tensor, "k d"] | None]:
    """Return the parameters of the rotation that turns by t times each of a rotation's angles.

        R(t) = G_reverse(t angles) G_forward(t angles) H(u_1) H(v_1) H(u_3) H(v_3) ...

    H(u_1) H(u_2) turns the plane of u_1 and u_2 by twice the angle between them, so v_1 is u_1 turned by t times that
    angle; see `partner`. R(0) is the identity, R(1) is R, and R(t) is orthogonal at any t. It scales factor by
    factor: as these do not commute, R(1/2) R(1/2) is not R in general.

    Args:
        givens: (trees, d - 1) radians, or None.
        reflections: (k, d) vectors, k even, or None.
        strength: t.

    Returns:
        Both in their dtypes, without gradient; computed in float64 and rounded once.

    Cost: a few operations on k d numbers.
    """
    angles = None if givens is None else (givens.double() * strength).to(givens.dtype)
    if reflections is None:
        return angles, None
    vectors = reflections.clone()
    vectors[1::2] = partner(reflections[0::2].double(), reflections[1::2].double(), strength).to(vectors.dtype)
    return angles, vectors


def partner(
    first: Float[Tensor, "pairs d"], second: Float[Tensor, "pairs d"], strength: float
) -> Float[Tensor, "pairs d"]:
    """Return the vectors v whose H(u) H(v) turn by t times what H(u_1) H(u_2) turn by.

        v = |u_2| (cos(t a) u + sin(t a) e),    u = u_1 / |u_1|,  e the unit vector of +-u_2 minus its part along u,
                                                a = angle(u, +-u_2) in [0, pi / 2]

    u_2 and -u_2 are one reflection; that of the two is taken which is nearer to u_1, so that the rotation's angle 2 a
    is at most pi: the way that training took from equal vectors, unless it went beyond a half turn. Parallel vectors
    have no plane, and a = 0 needs none.

    Args:
        first: u_1 of each pair; none may be zero.
        second: u_2 of each.
        strength: t.
    """
    length = second.norm(dim=1, keepdim=True)
    unit = first / first.norm(dim=1, keepdim=True)
    other = second / length
    cosine = (unit * other).sum(dim=1, keepdim=True)
    other = torch.where(cosine < 0, -other, other)
    across = other - cosine.abs() * unit
    sine = across.norm(dim=1, keepdim=True)
    angle = strength * torch.atan2(sine, cosine.abs())
    direction = across / sine.clamp_min(torch.finfo(sine.dtype).tiny)
    return length * (angle.cos() * unit + angle.sin() * direction)
