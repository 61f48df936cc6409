"""The instructions: a name, a family, a checker, parameters to draw, and ways to say it."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
