"""Generated prompts: seeded, distinct, and split without leaks."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.instructions import HELD_OUT_FAMILY, INSTRUCTIONS, generate_prompts
from ropo.instructions.prompts import TEMPLATES, TOPICS, compatible


def pairs_of(records):
    return {(use["name"], record["topic"]) for record in records for use in record["instructions"]}


def families_of(records):
    return {use["family"] for record in records for use in record["instructions"]}


def test_thousands_of_distinct_prompts():
    records = generate_prompts("train", 6000, 0, combined=0.3)
    assert len({record["prompt"] for record in records}) == 6000
    assert len(generate_prompts("test", 2000, 0)) == 2000
    assert len(set(TOPICS)) == len(TOPICS)


def test_train_and_test_share_no_instruction_and_topic_whatever_the_seeds():
    train, test = generate_prompts("train", 4000, 0, combined=0.5), generate_prompts("test", 1500, 7, combined=0.5)
    assert len(pairs_of(train)) > 2000
    assert len(pairs_of(test)) > 500
    assert pairs_of(train).isdisjoint(pairs_of(test))


def test_the_held_out_family_is_in_test_only():
    train, test = generate_prompts("train", 1000, 1, combined=0.5), generate_prompts("test", 500, 1)
    families = {instruction.family for instruction in INSTRUCTIONS.values()}
    assert families_of(train) == families - {HELD_OUT_FAMILY}
    assert families_of(test) == families


def test_the_seed_decides():
    assert generate_prompts("train", 50, 5) == generate_prompts("train", 50, 5)
    assert generate_prompts("train", 50, 5) != generate_prompts("train", 50, 6)


def test_the_prompt_says_what_is_checked():
    for record in generate_prompts("test", 500, 2, combined=0.5):
        assert any(record["prompt"].startswith(template.format(topic=record["topic"])) for template in TEMPLATES)
        for use in record["instructions"]:
            said = [
                INSTRUCTIONS[use["name"]].say(number, use["parameters"])
                for number in range(len(INSTRUCTIONS[use["name"]].phrasings))
            ]
            assert any(text in record["prompt"] for text in said)


def test_combined_instructions_are_compatible_and_as_many_as_asked():
    records = generate_prompts("train", 1000, 3, combined=0.4)
    twos = [record["instructions"] for record in records if len(record["instructions"]) == 2]
    assert 0.3 < len(twos) / len(records) < 0.5
    for first, second in twos:
        assert compatible(INSTRUCTIONS[first["name"]], INSTRUCTIONS[second["name"]])
    assert not compatible(INSTRUCTIONS["lower_case"], INSTRUCTIONS["upper_case"])
    assert not compatible(INSTRUCTIONS["end_with"], INSTRUCTIONS["lower_case"])
    assert compatible(INSTRUCTIONS["lower_case"], INSTRUCTIONS["at_most_words"])


def test_kinds_take_turns_and_can_be_chosen():
    records = generate_prompts("train", 90, 0, names=("json", "bullets", "no_comma", "number"))
    names = [record["instructions"][0]["name"] for record in records]
    assert {name: names.count(name) for name in set(names)} == {"json": 30, "bullets": 30, "number": 30}


def test_bad_requests():
    with pytest.raises(UserError, match="'rhyme': is not in the library"):
        generate_prompts("train", 5, 0, names=("rhyme",))
    with pytest.raises(UserError, match="of 1000;"):
        generate_prompts("test", 1000, 0, names=("json",))
