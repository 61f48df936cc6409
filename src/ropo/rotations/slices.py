"""Work on activations a slice of tokens at a time."""

from __future__ import annotations

from torch import Tensor


def token_slices(flat: Tensor, numbers: int) -> list[slice]:
    """Cut (tokens, d) into slices of so many numbers on a CPU, whose cache they then stay in while they are worked on.

    On other devices one slice is all, and with no tokens there is none.
    """
    tokens, width = flat.shape
    step = max(numbers // width, 1) if flat.device.type == "cpu" else max(tokens, 1)
    return [slice(start, start + step) for start in range(0, tokens, step)]
