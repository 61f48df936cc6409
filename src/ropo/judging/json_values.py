"""Values in JSON that a judge wrote, which may be broken."""

from __future__ import annotations

__all__ = ()

import json
import re
from collections.abc import Iterator
from typing import Any


def is_json(said: str) -> bool:
    return bool(re.match(r"(?:```\w*\s*)?(?:\[\s*)?\{\s*\"", said))


def values_in_json(said: str, keys: re.Pattern[str]) -> list[Any]:
    """Return the values under some keys of the JSON objects in a text; of a broken one, those that are complete."""
    objects: list[list[tuple[str, Any]]] = []
    start = said.find("{")
    while start >= 0:
        try:
            whole, length = json.JSONDecoder().raw_decode(said[start:])
            objects.append(list(_pairs(whole)))
        except ValueError:
            length = 1
        start = said.find("{", start + length)
    if not objects:
        broken = re.findall(r"\"([\w ]+)\"\s*:\s*(?:\"([^\"]{1,40})\"|(\d+(?:\.\d+)?)(?=\s*[,}]))", said)
        objects = [[(key, text or number) for key, text, number in broken]]
    pairs = [pair for each in objects for pair in each]
    wanted = [value for key, value in pairs if any(map(keys.fullmatch, re.split(r"[\W_]+", key.lower())))]
    return wanted if wanted or len(pairs) != 1 else [pairs[0][1]]


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, each in value.items() if isinstance(value, dict) else ():
        yield from _pairs(each) if isinstance(each, dict) else [(key, each)]
