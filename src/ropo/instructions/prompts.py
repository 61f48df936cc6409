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

# What the prompts ask about, and how they ask.
TEMPLATES = (
    "Tell me briefly about {topic}.",
    "Say something short about {topic}.",
    "Give a short description of {topic}.",
    "What is worth knowing about {topic}? Be brief.",
    "Explain {topic} to a child in a few words.",
    "Give me one piece of advice about {topic}.",
    "Write a short note about {topic}.",
    "Share one interesting fact about {topic}.",
)

_LISTED = """
apples, bananas, bread, butter, cheese, chocolate, coffee, honey, ice cream, lemons, milk, mushrooms, noodles, olive
oil, onions, pancakes, pepper, pizza, potatoes, rice, salt, soup, sugar, tea, tomatoes, vinegar, yogurt, ants, bats,
bears, bees, butterflies, camels, cats, chickens, cows, crabs, dogs, dolphins, ducks, eagles, elephants, foxes, frogs,
goats, horses, kangaroos, lions, monkeys, octopuses, owls, pandas, parrots, penguins, pigs, rabbits, salmon, sharks,
sheep, snails, snakes, spiders, squirrels, tigers, turtles, whales, wolves, bamboo, cactuses, clover, ferns, grass,
ivy, moss, oak trees, orchids, pine trees, roses, seeds, sunflowers, tulips, beaches, caves, clouds, deserts,
earthquakes, fog, forests, glaciers, islands, lakes, lightning, mountains, oceans, rain, rainbows, rivers, sand, snow,
storms, sunsets, tides, valleys, volcanoes, waterfalls, wind, winter, bicycles, boats, bridges, buses, cars,
elevators, ferries, helicopters, maps, motorcycles, planes, roads, rockets, ships, submarines, subways, taxis,
tractors, traffic lights, trains, tunnels, backpacks, batteries, books, bottles, brooms, buttons, candles, chairs,
clocks, coins, combs, cups, doors, envelopes, forks, glass, hammers, hats, keys, knives, ladders, lamps, locks,
magnets, mirrors, needles, paper, pencils, pillows, pots, ropes, scissors, shoes, soap, spoons, stairs, tables,
towels, umbrellas, wheels, windows, wool, cameras, computers, keyboards, microscopes, phones, printers, radios,
robots, satellites, telescopes, televisions, airports, bakeries, banks, castles, cinemas, farms, gardens, hospitals,
hotels, kitchens, libraries, lighthouses, markets, museums, parks, playgrounds, post offices, restaurants, schools,
theaters, zoos, baking, camping, chess, cleaning, cooking, cycling, dancing, drawing, fishing, football, gardening,
hiking, juggling, kite flying, knitting, painting, photography, poetry, reading, running, sailing, sewing, singing,
skating, skiing, sleeping, swimming, tennis, traveling, walking, writing, yoga, birthdays, dreams, friendship,
holidays, homework, jokes, kindness, laughter, letters, manners, memory, money, music, neighbors, patience, puzzles,
saving money, stories, teamwork, the moon, the stars, the sun, time, drums, flutes, guitars, pianos, trumpets,
violins, bones, ears, eyes, hands, hearts, lungs, muscles, teeth
"""
TOPICS = tuple(topic.strip() for topic in _LISTED.split(","))

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
