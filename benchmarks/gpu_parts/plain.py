"""Do without kernels for a while: the same rotations and stretches in plain PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ropo.ops import batched, plain_stretch
from ropo.ops import stretch as _stretch  # noqa: F401
from ropo.ops.rotate import rotate as _rotate  # noqa: F401


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Let `rotate` and `stretch` choose plain PyTorch, whatever kernels there are."""
    rotating: Any = sys.modules["ropo.ops.rotate"]
    stretching: Any = sys.modules["ropo.ops.stretch"]
    chosen = rotating.products_for, stretching.arithmetic_for
    rotating.products_for = lambda x, packed: batched
    stretching.arithmetic_for = lambda y, scale: plain_stretch
    try:
        yield
    finally:
        rotating.products_for, stretching.arithmetic_for = chosen
