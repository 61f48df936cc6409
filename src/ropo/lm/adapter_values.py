"""Refuse an adapter whose values are not finite, whatever its method, before anything is computed with it."""

from __future__ import annotations

__all__ = ["check_values"]

from collections.abc import Mapping

from torch import Tensor

from ropo.core.errors import UserError


def check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise an error if an adapter holds NaN or infinity.

    Args:
        tensors: Its tensors by name.
        source: Where they come from, for the message.

    Raises:
        UserError: Naming the first tensor that does.

    Cost: one pass over the adapter.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"adapter {source}: {name} holds NaN or infinity; train it again, or use an earlier checkpoint"
            )
