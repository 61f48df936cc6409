"""The instructions: a name, a family, a checker, parameters to draw, and ways to say it."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropo.core.errors import UserError
from ropo.instructions import checkers

# No training prompt has an instruction of this family, so that it measures generalisation.
HELD_OUT_FAMILY = "punctuation"


@dataclass(frozen=True)
class Instruction:
    """One kind of verifiable instruction.

    Args:
        name: Its name in records.
        family: Instructions of one family may contradict each other and are never combined.
        check: Takes the answer and the parameters.
        phrasings: What the user says, with `{parameter}` places.
        choices: The values that each parameter may take; none for an instruction without parameters.
    """

    name: str
    family: str
    check: Callable[..., bool]
    phrasings: tuple[str, ...]
    choices: tuple[Mapping[str, Any], ...] = field(default=({},))

    def say(self, phrasing: int, parameters: Mapping[str, Any]) -> str:
        """Return one of the phrasings with its parameters filled in."""
        return self.phrasings[phrasing].format(**parameters)


def _values(name: str, *values: str | int) -> tuple[Mapping[str, Any], ...]:
    return tuple({name: value} for value in values)


_ALL = (
    Instruction(
        "at_most_words",
        "length",
        checkers.has_at_most_words,
        (
            "Use at most {limit} words.",
            "Your answer must not be longer than {limit} words.",
            "Keep it to {limit} words or fewer.",
        ),
        _values("limit", 10, 12, 15, 20, 25),
    ),
    Instruction(
        "at_least_words",
        "length",
        checkers.has_at_least_words,
        (
            "Use at least {limit} words.",
            "Your answer must have {limit} words or more.",
            "Write no fewer than {limit} words.",
        ),
        _values("limit", 40, 45, 50, 55, 60),
    ),
    Instruction(
        "words_between",
        "length",
        checkers.has_words_between,
        (
            "Use between {low} and {high} words.",
            "Your answer must have {low} to {high} words.",
            "Write no fewer than {low} and no more than {high} words.",
        ),
        ({"low": 15, "high": 25}, {"low": 20, "high": 30}, {"low": 25, "high": 40}, {"low": 30, "high": 45}),
    ),
    Instruction(
        "one_sentence",
        "sentences",
        checkers.has_sentences,
        ("Answer in exactly one sentence.", "Write a single sentence.", "Your whole answer must be one sentence."),
        _values("count", 1),
    ),
    Instruction(
        "sentences",
        "sentences",
        checkers.has_sentences,
        (
            "Answer in exactly {count} sentences.",
            "Your answer must have exactly {count} sentences.",
            "Write {count} sentences, no more and no fewer.",
        ),
        _values("count", 2, 3, 4),
    ),
    Instruction(
        "paragraphs",
        "sentences",
        checkers.has_paragraphs,
        (
            "Write exactly {count} short paragraphs, separated by a blank line.",
            "Your answer must have {count} very short paragraphs with a blank line between them.",
        ),
        _values("count", 2, 3),
    ),
    Instruction(
        "bullets",
        "format",
        checkers.has_bullets,
        (
            'Answer with exactly {count} bullet points, each starting with "- ".',
            'Give {count} bullet points and no more. Begin each with "- ".',
            'Write a list of exactly {count} short bullet points that start with "- ".',
        ),
        _values("count", 2, 3, 4),
    ),
    Instruction(
        "numbered",
        "format",
        checkers.has_numbered_items,
        (
            "Answer with a numbered list of exactly {count} short items.",
            "Give exactly {count} short items, numbered 1 to {count}.",
            "Write a numbered list that has {count} short items, no more and no fewer.",
        ),
        _values("count", 2, 3, 4),
    ),
    Instruction(
        "json",
        "format",
        checkers.is_json,
        ("Answer with one short JSON object only.", "Your whole answer must be valid JSON with two or three fields."),
    ),
    Instruction(
        "table",
        "format",
        checkers.is_table,
        ("Answer with a small Markdown table of two columns.", "Put your answer in a short Markdown table."),
    ),
    Instruction(
        "lower_case",
        "case",
        str.islower,
        (
            "Write in lower case only, without any capital letter.",
            "Use only lowercase letters.",
            "Your whole answer must be in lowercase letters.",
        ),
    ),
    Instruction(
        "upper_case",
        "case",
        str.isupper,
        (
            "Write in capital letters only.",
            "Use only uppercase letters.",
            "YOUR WHOLE ANSWER MUST BE IN CAPITAL LETTERS.",
        ),
    ),
    Instruction(
        "no_comma",
        "punctuation",
        checkers.lacks_commas,
        ("Do not use any commas.", "Write without commas.", "Your answer must not contain a comma."),
    ),
    Instruction(
        "end_with_question",
        "punctuation",
        checkers.ends_with_question,
        ("End your answer with a question.", "The last character of your answer must be a question mark."),
    ),
    Instruction(
        "exclamation",
        "punctuation",
        checkers.has_exclamation,
        ("Use at least one exclamation mark.", "Put an exclamation mark somewhere in your answer."),
    ),
    Instruction(
        "include_word",
        "words",
        checkers.includes_word,
        (
            'Use the word "{word}".',
            'Your answer must include the word "{word}".',
            'Make sure that the word "{word}" appears.',
        ),
        _values("word", "important", "often", "together", "simple", "history", "small", "because", "careful", "nature"),
    ),
    Instruction(
        "avoid_word",
        "words",
        checkers.avoids_word,
        (
            'Do not use the word "{word}".',
            'Avoid the word "{word}" entirely.',
            'Your answer must not contain the word "{word}".',
        ),
        _values("word", "the", "a", "and", "of", "is", "to"),
    ),
    Instruction(
        "start_with",
        "opening",
        checkers.starts_with,
        (
            'Begin your answer with "{phrase}".',
            'The first words of your answer must be "{phrase}".',
            'Start with the words "{phrase}".',
        ),
        _values("phrase", "In short", "Well now", "Good question", "Here is what I know", "To begin with"),
    ),
    Instruction(
        "end_with",
        "ending",
        checkers.ends_with,
        (
            'End your answer with "{phrase}".',
            'The last words of your answer must be "{phrase}".',
            'Finish with exactly these words: "{phrase}".',
        ),
        _values("phrase", "That is all.", "I hope this helps.", "Any questions?", "Thank you.", "Have a nice day."),
    ),
    Instruction(
        "quoted",
        "opening",
        checkers.is_quoted,
        ("Put your whole answer in double quotation marks.", 'Wrap your entire answer in double quotes, like "this".'),
    ),
    Instruction(
        "language",
        "language",
        checkers.is_in_language,
        ("Answer in {language}.", "Write your whole answer in {language}.", "Use {language} only, no English."),
        _values("language", "French", "German", "Italian", "Spanish"),
    ),
    Instruction(
        "number",
        "numbers",
        checkers.has_number,
        ("Include at least one number written in digits.", "Your answer must contain a number, in digits."),
    ),
    Instruction(
        "no_digits",
        "numbers",
        checkers.lacks_digits,
        ("Do not use any digits.", "Write every number as a word, without digits."),
    ),
)

INSTRUCTIONS = {instruction.name: instruction for instruction in _ALL}


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_words(value: object) -> bool:
    return isinstance(value, str) and value != "" and value == value.strip()


# parameter: whether a value is one, and which values are
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (lambda value: _is_number(value, 0), "a whole number, not below 0"),
    "limit": (lambda value: _is_number(value, 1), "a whole number above 0"),
    "low": (lambda value: _is_number(value, 0), "a whole number, not below 0"),
    "high": (lambda value: _is_number(value, 1), "a whole number above 0"),
    "word": (_is_words, "text without spaces around it"),
    "phrase": (_is_words, "text without spaces around it"),
    "language": (
        lambda value: isinstance(value, str) and value in checkers.VOCABULARIES,
        f"one of {', '.join(checkers.VOCABULARIES)}",
    ),
}


def check_instructions(instructions: object, where: str) -> None:
    """Refuse a prompt's instructions that no checker can check.

    Args:
        instructions: What the prompt's record has, whatever it is.
        where: The record, for the error.

    Raises:
        UserError: If it is no list of instructions of the library with their parameters.
    """
    if (fault := _fault_of(instructions)) is not None:
        raise UserError(f"{where}: {fault}")


def _fault_of(instructions: object) -> str | None:
    """Say what is wrong with a prompt's instructions, and the mend; None for good ones."""
    if (
        not isinstance(instructions, list)
        or not instructions
        or not all(isinstance(each, dict) for each in instructions)
    ):
        return (
            "has no `instructions`; write a list of {'name': ..., 'parameters': ...}, as "
            "`ropo.instructions.generate_prompts` does"
        )
    return next((fault for each in instructions if (fault := _fault_in(each)) is not None), None)


def _fault_in(instruction: Mapping[str, Any]) -> str | None:
    name, parameters = instruction.get("name"), instruction.get("parameters", {})
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        return f"instruction {name!r:.40}: is not in the library; choose from {', '.join(sorted(INSTRUCTIONS))}"
    known = sorted(INSTRUCTIONS[name].choices[0])
    if not isinstance(parameters, dict) or parameters.keys() != set(known):
        got = sorted(map(str, parameters)) if isinstance(parameters, dict) else _shown(parameters)
        return f"instruction {name}: takes the parameters {known}, got {got}; mend them"
    for parameter, value in parameters.items():
        fits, rule = _RULES[parameter]
        if not fits(value):
            return f"instruction {name}: {parameter} must be {rule}, got {_shown(value)}; mend the record"
    if "low" in parameters and parameters["low"] > parameters["high"]:
        low, high = parameters["low"], parameters["high"]
        return f"instruction {name}: low must not be above high, got {low} and {high}; let them change places"
    return None


def _shown(value: object) -> str:
    """Write a value as JSON has it, cut."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:40]


def satisfied(instructions: list[dict[str, Any]], answer: str) -> list[bool]:
    """Check an answer against each of a prompt's instructions.

    Args:
        instructions: As `generate_prompts` writes them: `name` and `parameters`.
        answer: The answer's text.

    Returns:
        One truth value an instruction, in order.

    Raises:
        UserError: If an instruction is not in the library, or its parameters do not fit.
    """
    if (fault := _fault_of(instructions)) is not None:
        raise UserError(fault)
    return [INSTRUCTIONS[each["name"]].check(answer, **each.get("parameters", {})) for each in instructions]
