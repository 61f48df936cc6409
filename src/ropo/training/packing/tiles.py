"""Keep the tiles of logits that TRL's fused LM head goes over on a CPU in its caches.

TRL computes logits in tiles of 4,096 tokens by 32,768 words, which one Triton kernel folds on a GPU. Elsewhere PyTorch
goes over each tile a dozen times, so a tile should not have to come from memory each time. The tokens are those of a
pack; the words are ours to choose.
"""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator
from contextlib import contextmanager

from trl.trainer import utils

_NUMBERS = 2**20  # 4 MiB in float32: the second-level caches of two cores
_NARROWEST, _WIDEST = 256, 2048  # words; a product with fewer columns is slow


def tile_width(tokens: int) -> int:
    """Return how many words a tile should have for these tokens on a CPU: a power of two."""
    fitting = min(max(_NUMBERS // max(tokens, 1), _NARROWEST), _WIDEST)
    return 2 ** (fitting.bit_length() - 1)


@contextmanager
def fitting_tiles(device: str, tokens: int) -> Iterator[None]:
    """Let TRL's LM head use tiles that suit a device, inside; the backward pass remembers what the forward pass used.

    Args:
        device: Its type, such as `cpu`.
        tokens: How many are scored.
    """
    if device != "cpu":
        yield
        return
    theirs = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", tile_width(tokens))  # noqa: B010
    try:
        yield
    finally:
        setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", theirs)  # noqa: B010
