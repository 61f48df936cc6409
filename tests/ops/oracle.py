"""RoPO's rotation one plane and one vector at a time in float64: slow, and too plain to be wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plane_rotation(dim: int, first: int, second: int, angle: float) -> Tensor:
    rotation = torch.eye(dim, dtype=torch.float64)
    rotation[first, first] = rotation[second, second] = math.cos(angle)
    rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
    return rotation


def planes(dim: int) -> list[tuple[int, int]]:
    """All planes of the tournament tree, fine to coarse."""
    found, stride = [], 1
    while stride < dim:
        first = 0
        while first + stride < dim:
            found.append((first, first + stride))
            first += 2 * stride
        stride *= 2
    return found


def dense_forward(angles: Tensor) -> Tensor:
    """G_forward = L_last ... L_2 L_1 acting on column vectors: the finest level first."""
    dim = len(angles) + 1
    dense = torch.eye(dim, dtype=torch.float64)
    for (first, second), angle in zip(planes(dim), angles.tolist(), strict=True):
        dense = plane_rotation(dim, first, second, angle) @ dense
    return dense


def dense_reverse(angles: Tensor) -> Tensor:
    """G_reverse = L_1 L_2 ... L_last: the coarsest level first."""
    dim = len(angles) + 1
    dense = torch.eye(dim, dtype=torch.float64)
    for (first, second), angle in zip(planes(dim), angles.tolist(), strict=True):
        dense = dense @ plane_rotation(dim, first, second, angle)
    return dense


def dense_reflections(vectors: Tensor) -> Tensor:
    dense = torch.eye(vectors.shape[1], dtype=torch.float64)
    for vector in vectors.double():
        dense = dense @ (
            torch.eye(len(vector), dtype=torch.float64) - 2 * torch.outer(vector, vector) / vector.dot(vector)
        )
    return dense


def apply_plane_by_plane(rows: Tensor, givens: Tensor, vectors: Tensor) -> Tensor:
    """Return rows @ G_reverse G_forward H(u_1) H(u_2), two numbers changed at a time: for sizes too large for dense."""
    y = rows.double().clone()
    dim = y.shape[-1]
    order = planes(dim)
    for (first, second), angle in zip(order, givens[1].tolist(), strict=True):
        _turn(y, first, second, angle)
    for (first, second), angle in reversed(list(zip(order, givens[0].tolist(), strict=True))):
        _turn(y, first, second, angle)
    for vector in vectors.double():
        y -= 2 * (y @ vector).unsqueeze(-1) * vector / vector.dot(vector)
    return y


def _turn(rows: Tensor, first: int, second: int, angle: float) -> None:
    a, b = rows[..., first].clone(), rows[..., second].clone()
    rows[..., first] = math.cos(angle) * a + math.sin(angle) * b
    rows[..., second] = math.cos(angle) * b - math.sin(angle) * a
