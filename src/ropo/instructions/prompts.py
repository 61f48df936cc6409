"""Generate prompts with verifiable instructions: seeded, and with training and test kept apart."""

from __future__ import annotations

__all__ = ()

import hashlib
from collections.abc import Collection
from functools import cache
from random import Random
from typing import Any, Literal

from ropo.core.errors import UserError
from ropo.instructions.library import HELD_OUT_FAMILY, INSTRUCTIONS, Instruction
from ropo.instructions.topics import TEMPLATES, TOPICS

_Split = Literal["train", "test"]
_TEST_SHARE = 0.2

# Families whose demands an answer can hardly meet together: a fixed phrase has letters of both cases, JSON or a list
# is no sentence, and whatever counts words or forbids them can contradict a phrase or a form.
_CONFLICTS = frozenset(
    frozenset(pair)
    for pair in (
        ("case", "opening"),
        ("case", "ending"),
        ("format", "opening"),
        ("format", "ending"),
        ("format", "sentences"),
        ("format", "numbers"),
        ("opening", "ending"),
        ("language", "words"),
        ("language", "opening"),
        ("language", "ending"),
        ("words", "opening"),
        ("words", "ending"),
        ("length", "sentences"),
    )
)


def generate_prompts(
    split: _Split,
    count: int,
    seed: int,
    names: Collection[str] = tuple(INSTRUCTIONS),
    combined: float = 0.0,
) -> list[dict[str, Any]]:
    """Generate distinct prompts, each a request about a topic with one or two instructions.

    An instruction and a topic meet either in training or in test, never in both, whatever the seed; a training prompt
    has no instruction of the family `HELD_OUT_FAMILY`. Instructions take turns, so each comes equally often.

    Args:
        split: "train" or "test".
        count: Prompts to make.
        seed: The same seed gives the same prompts.
        names: The instructions to choose from.
        combined: Share of prompts with a second instruction, in [0, 1].

    Returns:
        Records with `prompt` (text), `topic`, and `instructions`: `name`, `family` and `parameters` of each.

    Raises:
        UserError: If a name is not in the library, or there are not that many distinct prompts.
    """
    unknown = sorted(set(names) - set(INSTRUCTIONS))
    if unknown:
        raise UserError(f"instruction {unknown[0]!r}: is not in the library; choose from {', '.join(INSTRUCTIONS)}")
    pool = [INSTRUCTIONS[name] for name in names if split == "test" or INSTRUCTIONS[name].family != HELD_OUT_FAMILY]
    random = Random(f"{split} {seed}")
    records: dict[str, dict[str, Any]] = {}
    for attempt in range(20 * count):
        first = pool[attempt % len(pool)]
        record = _draw(first, pool, split, random, two=random.random() < combined)
        if record is not None:
            records.setdefault(record["prompt"], record)
        if len(records) == count:
            return list(records.values())
    raise UserError(f"count must not exceed the distinct prompts, found {len(records)} of {count}; ask for fewer")


def _split_of(instruction: str, topic: str) -> _Split:
    """Return the split in which an instruction and a topic may meet."""
    digest = hashlib.sha256(f"{instruction}/{topic}".encode()).digest()
    return "test" if digest[0] < _TEST_SHARE * 256 else "train"


@cache
def _topics(instruction: str, split: _Split) -> tuple[str, ...]:
    return tuple(topic for topic in TOPICS if _split_of(instruction, topic) == split)


def compatible(first: Instruction, second: Instruction) -> bool:
    """Tell whether one answer can meet both instructions."""
    return first.family != second.family and frozenset((first.family, second.family)) not in _CONFLICTS


def _draw(
    first: Instruction, pool: list[Instruction], split: _Split, random: Random, two: bool
) -> dict[str, Any] | None:
    topic = random.choice(_topics(first.name, split))
    chosen = [first]
    if two:
        others = [other for other in pool if compatible(first, other) and _split_of(other.name, topic) == split]
        if not others:
            return None
        chosen.append(random.choice(others))
    uses = [(instruction, dict(random.choice(instruction.choices))) for instruction in chosen]
    said = [instruction.say(random.randrange(len(instruction.phrasings)), values) for instruction, values in uses]
    request = random.choice(TEMPLATES).format(topic=topic)
    return {
        "prompt": " ".join([request, *said]),
        "topic": topic,
        "instructions": [
            {"name": instruction.name, "family": instruction.family, "parameters": values}
            for instruction, values in uses
        ],
    }
