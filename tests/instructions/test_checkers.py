"""Each instruction on answers that satisfy it and answers that do not."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.instructions import INSTRUCTIONS, check_instructions, satisfied

# name: (parameters, answers that satisfy it, answers that do not)
CASES = {
    "at_most_words": ({"limit": 3}, ["One two three.", "it's it"], ["One two three four", "", "..."]),
    "at_least_words": ({"limit": 3}, ["One two three."], ["One two.", ""]),
    "words_between": ({"low": 2, "high": 3}, ["a b", "a, b, c"], ["a", "a b c d"]),
    "one_sentence": (
        {"count": 1},
        ["Bees make honey.", "Dr. J. Smith met Mr. Jones at 3.5 km/h, i.e. slowly.", "no end mark", 'He said "Go!"'],
        ["Bees fly. They hum.", "", "- One.\n- Two.", "Why? Because!", "第一句。第二句。"],
    ),
    "sentences": ({"count": 2}, ["One. Two!", "1. One.\n2. Two.", "Really?! Yes."], ["One.", "One. Two. Three."]),
    "paragraphs": ({"count": 2}, ["One.\n\nTwo.", "One\nline.\n \nTwo.\n\n"], ["One.\nTwo.", "a\n\nb\n\nc", ""]),
    "bullets": ({"count": 2}, ["- a\n- b", "Look:\n* a\n  * b"], ["- a", "- a\n- b\n- c", "**bold**\n- a", "a - b"]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "So:\n1) a\n2) b"], ["1. a\n2. b\n3. c", "2. a\n1. b", "1.5 km\n2 b"]),
    "json": (
        {},
        ['{"a": 1}', '```json\n{"a": [1, 2]}\n```'],
        [
            "{'a': 1}",
            'Here: {"a": 1}',
            "",
            '{"a": 1',
            "7",
            '"hello"',
            '[{"a": 1}]',
            "null",
            '{"a": NaN}',
            "[" * 3000,
            '{"a":' * 3000,
        ],
    ),
    "table": ({}, ["| a | b |\n|---|---|\n| 1 | 2 |"], ["| a | b |", "a | b\n1 | 2", "| a |\n|---|"]),
    "lower_case": ({}, ["all small, 3 of them."], ["Not small.", "123", ""]),
    "upper_case": ({}, ["ALL BIG, 3!"], ["Not BIG", "123", ""]),
    "no_comma": ({}, ["No comma here."], ["Well, one.", "1,000", " ", "好，不好"]),
    "end_with_question": ({}, ["Bees fly. Why?", "Why? ", "为什么？"], ["Why? Because.", 'He asked "why?"']),
    "exclamation": ({}, ["Oh! Bees.", "好！"], ["Bees."]),
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


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("C++", "I like C++ a lot", True),
        ("C++", "(c++)", True),
        ("C++", "only C", False),
        ("C#", "I like C#.", True),
        (".NET", "Use .NET", True),
        (".NET", "ASP.NET", False),
        ("$5", "It is $5", True),
        ("$5", "It is $50", False),
        ("don't", "Well, don't!", True),
        ("small", "smaller", False),
        ("हिन्दी", "मुझे हिन्दी पसंद है", True),
        ("हिन", "मुझे हिन्दी पसंद है", False),
        ("蜜蜂", "我喜欢蜜蜂。", True),
        ("C", "用C写", True),
        ("กี", "กี่", False),
        ("❤", "I ❤️ bees", True),
    ],
)
def test_a_word_is_found_whole_whatever_it_ends_in(word, text, found):
    """An answer without a word avoids it, so a word that is not found passes for avoided."""
    parameters = {"word": word}
    assert satisfied([{"name": "include_word", "parameters": parameters}], text) == [found]
    assert satisfied([{"name": "avoid_word", "parameters": parameters}], text) == [not found]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("第一句。第二句。", 2),
        ("真的？！是的。他说：“好。”", 3),
        ("यह एक वाक्य है। यह दूसरा है।", 2),
        ("هل هذا صحيح؟ نعم۔", 2),
        ("He is 3.5 years old. Yes.", 2),
    ],
)
def test_sentences_of_other_scripts_end_too(text, count):
    found = [satisfied([{"name": "sentences", "parameters": {"count": number}}], text) for number in range(5)]
    assert found == [[number == count] for number in range(5)]


def test_words_of_other_scripts_are_counted():
    for text, count in (("我喜欢蜜蜂。", 5), ("हिन्दी भाषा", 2), ("iPhoneを買う", 4)):
        exactly = {"low": count, "high": count}
        assert satisfied([{"name": "words_between", "parameters": exactly}], text) == [True], text


def test_a_phrase_that_ends_in_a_quotation_mark_can_be_met():
    (asked,) = [{"name": "end_with", "parameters": {"phrase": 'said "no"'}}]
    assert satisfied([asked], 'He said "no"') == [True]
    assert satisfied([asked], "He said no") == [False]


def test_several_instructions_are_checked_in_order():
    both = [{"name": "lower_case"}, {"name": "exclamation", "parameters": {}}]
    assert satisfied(both, "oh no!") == [True, True]
    assert satisfied(both, "oh no") == [True, False]


def test_unknown_instruction_and_wrong_parameters():
    with pytest.raises(UserError, match="'rhyme': is not in the library"):
        satisfied([{"name": "rhyme"}], "x")
    with pytest.raises(UserError, match=r"takes the parameters \['limit'\], got \['count'\]"):
        satisfied([{"name": "at_most_words", "parameters": {"count": 3}}], "x")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (
            {"name": "bullets", "parameters": {"count": "1"}},
            'bullets: count must be a whole number, not below 0, got "1"',
        ),
        ({"name": "bullets", "parameters": {"count": True}}, "count must be a whole number, not below 0, got true"),
        ({"name": "bullets", "parameters": {"count": 2.0}}, "count must be a whole number, not below 0, got 2.0"),
        ({"name": "numbered", "parameters": {"count": None}}, "count must be a whole number, not below 0, got null"),
        ({"name": "sentences", "parameters": {"count": -1}}, "count must be a whole number, not below 0, got -1"),
        ({"name": "at_most_words", "parameters": {"limit": "10"}}, 'limit must be a whole number above 0, got "10"'),
        ({"name": "at_most_words", "parameters": {"limit": 0}}, "limit must be a whole number above 0, got 0"),
        ({"name": "words_between", "parameters": {"low": 1, "high": [3]}}, r"high must be a .* above 0, got \[3\]"),
        ({"name": "words_between", "parameters": {"low": 9, "high": 3}}, "low must not be above high, got 9 and 3"),
        ({"name": "avoid_word", "parameters": {"word": 5}}, "word must be text without spaces around it, got 5"),
        ({"name": "include_word", "parameters": {"word": ""}}, 'word must be text without spaces around it, got ""'),
        ({"name": "start_with", "parameters": {"phrase": None}}, "phrase must be text .*, got null"),
        ({"name": "end_with", "parameters": {"phrase": "Bye. "}}, 'phrase must be text .*, got "Bye. "'),
        (
            {"name": "language", "parameters": {"language": "french"}},
            'must be one of English, French, .*, got "french"',
        ),
        ({"name": "language", "parameters": {"language": "Portuguese"}}, "must be one of English, French"),
        ({"name": "language", "parameters": {"language": ["French"]}}, "must be one of English, French"),
        ({"name": "json", "parameters": None}, r"json: takes the parameters \[\], got null; mend them"),
        ({"name": "at_most_words", "parameters": 5}, r"takes the parameters \['limit'\], got 5; mend them"),
        ({"name": "at_most_words"}, r"takes the parameters \['limit'\], got \[\]; mend them"),
        ({"name": ["x"]}, r"instruction \['x'\]: is not in the library"),
        ({"name": None}, "instruction None: is not in the library"),
    ],
)
def test_malformed_instructions_are_told_in_one_line(instruction, message):
    for asked in ([instruction], [{"name": "json"}, instruction]):
        with pytest.raises(UserError, match=message) as found:
            check_instructions(asked, "prompts p.jsonl:3")
        assert str(found.value).startswith("prompts p.jsonl:3: ")
        assert "\n" not in str(found.value)
        with pytest.raises(UserError, match=message):
            satisfied(asked, "An answer.")


@pytest.mark.parametrize("instructions", [None, 5, "json", {"name": "json"}, [], [None], ["json"]])
def test_what_is_no_list_of_instructions_is_refused(instructions):
    with pytest.raises(UserError, match="has no `instructions`; write a list"):
        check_instructions(instructions, "prompts p.jsonl:3")


def test_every_parameter_that_is_drawn_is_one():
    drawn = [(each.name, parameters) for each in INSTRUCTIONS.values() for parameters in each.choices]
    assert len(drawn) > 50
    check_instructions([{"name": name, "parameters": dict(parameters)} for name, parameters in drawn], "drawn")
