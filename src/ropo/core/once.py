"""Say a line once in a process."""

from __future__ import annotations

__all__ = ["say"]

import functools
import logging

logger = logging.getLogger(__name__)


@functools.cache
def say(line: str) -> None:
    """Say a line once: the same models and prompts come by again and again."""
    logger.warning(line)
