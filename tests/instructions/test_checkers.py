"""Each instruction on answers that satisfy it and answers that do not."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.instructions import INSTRUCTIONS, satisfied

# name: (parameters, answers that satisfy it, answers that do not)
CASES = {
    "at_most_words": ({"limit": 3}, ["One two three.", "it's it"], ["One two three four", "", "..."]),
    "at_least_words": ({"limit": 3}, ["One two three."], ["One two.", ""]),
    "words_between": ({"low": 2, "high": 3}, ["a b", "a, b, c"], ["a", "a b c d"]),
    "one_sentence": (
        {"count": 1},
        ["Bees make honey.", "Dr. J. Smith met Mr. Jones at 3.5 km/h, i.e. slowly.", "no end mark", 'He said "Go!"'],
        ["Bees fly. They hum.", "", "- One.\n- Two.", "Why? Because!"],
    ),
    "sentences": ({"count": 2}, ["One. Two!", "1. One.\n2. Two.", "Really?! Yes."], ["One.", "One. Two. Three."]),
    "paragraphs": ({"count": 2}, ["One.\n\nTwo.", "One\nline.\n \nTwo.\n\n"], ["One.\nTwo.", "a\n\nb\n\nc", ""]),
    "bullets": ({"count": 2}, ["- a\n- b", "Look:\n* a\n  * b"], ["- a", "- a\n- b\n- c", "**bold**\n- a", "a - b"]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "So:\n1) a\n2) b"], ["1. a\n2. b\n3. c", "2. a\n1. b", "1.5 km\n2 b"]),
    "json": ({}, ['{"a": 1}', '```json\n{"a": [1, 2]}\n```'], ["{'a': 1}", 'Here: {"a": 1}', "", '{"a": 1']),
    "table": ({}, ["| a | b |\n|---|---|\n| 1 | 2 |"], ["| a | b |", "a | b\n1 | 2", "| a |\n|---|"]),
    "lower_case": ({}, ["all small, 3 of them."], ["Not small.", "123", ""]),
    "upper_case": ({}, ["ALL BIG, 3!"], ["Not BIG", "123", ""]),
    "no_comma": ({}, ["No comma here."], ["Well, one.", "1,000", " "]),
    "end_with_question": ({}, ["Bees fly. Why?", "Why? "], ["Why? Because.", 'He asked "why?"']),
    "exclamation": ({}, ["Oh! Bees."], ["Bees."]),
    "include_word": ({"word": "small"}, ["Small bees.", "a small, bee"], ["smaller bees", "little"]),
    "avoid_word": ({"word": "the"}, ["There are bees."], ["The bee.", "in the sky", ""]),
    "start_with": ({"phrase": "In short"}, ["In short, bees.", " in short: no"], ["Bees, in short", '"In short" is']),
    "end_with": ({"phrase": "Thank you."}, ["Bees. Thank you.", '"So thank you."'], ["Thank you. Bees.", "Thank you"]),
    "quoted": ({}, ['"Bees fly."', ' "a" '], ['Bees "fly"', '"', "'a'"]),
    "language": (
        {"language": "French"},
        ["Les abeilles sont des insectes qui vivent dans une ruche et font le miel."],
        ["The bees are insects that live in a hive.", "Las abejas son insectos que viven en la colmena.", "miel", ""],
    ),
    "number": ({}, ["They have 6 legs."], ["They have six legs."]),
    "no_digits": ({}, ["They have six legs."], ["They have 6 legs.", ""]),
}


def test_every_instruction_has_its_cases():
    assert CASES.keys() == INSTRUCTIONS.keys()
    assert all(good and bad for _, good, bad in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_checker(name):
    parameters, good, bad = CASES[name]
    instructions = [{"name": name, "parameters": parameters}]
    for answer in good:
        assert satisfied(instructions, answer) == [True], answer
    for answer in bad:
        assert satisfied(instructions, answer) == [False], answer


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("German", "Die Bienen sind Insekten und leben in einem Stock, der für sie auch ein Haus ist."),
        ("Italian", "Le api sono insetti che vivono in un alveare e con il polline fanno del miele."),
        ("Spanish", "Las abejas son insectos que viven en una colmena y hacen la miel con el polen."),
    ],
)
def test_other_languages(language, text):
    found = {
        name: satisfied([{"name": "language", "parameters": {"language": name}}], text)
        for name in ("French", "German", "Italian", "Spanish")
    }
    assert [name for name, passed in found.items() if passed == [True]] == [language]


def test_several_instructions_are_checked_in_order():
    both = [{"name": "lower_case"}, {"name": "exclamation", "parameters": {}}]
    assert satisfied(both, "oh no!") == [True, True]
    assert satisfied(both, "oh no") == [True, False]


def test_unknown_instruction_and_wrong_parameters():
    with pytest.raises(UserError, match="'rhyme': is not in the library"):
        satisfied([{"name": "rhyme"}], "x")
    with pytest.raises(UserError, match=r"takes the parameters \['limit'\], got \['count'\]"):
        satisfied([{"name": "at_most_words", "parameters": {"count": 3}}], "x")
