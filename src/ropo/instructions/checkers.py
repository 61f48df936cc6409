"""Decide whether an answer satisfies an instruction. Each checker takes the answer and the instruction's parameters."""

from __future__ import annotations

__all__ = ()

import json
import re

from ropo.instructions.counting import (
    count_bullets,
    count_occurrences,
    count_paragraphs,
    count_sentences,
    detect_language,
    ifeval_words,
    numbered_items,
)


def has_at_most_words(text: str, limit: int) -> bool:
    """Tell whether the answer has at most `limit` words."""
    return 0 < len(ifeval_words(text)) <= limit


def has_at_least_words(text: str, limit: int) -> bool:
    """Tell whether the answer has at least `limit` words."""
    return len(ifeval_words(text)) >= limit


def has_words_between(text: str, low: int, high: int) -> bool:
    """Tell whether the answer has `low` to `high` words."""
    return low <= len(ifeval_words(text)) <= high


def has_sentences(text: str, count: int) -> bool:
    """Tell whether the answer has exactly `count` sentences."""
    return count_sentences(text) == count


def has_paragraphs(text: str, count: int) -> bool:
    """Tell whether the answer has exactly `count` paragraphs separated by blank lines."""
    return count_paragraphs(text) == count


def has_bullets(text: str, count: int) -> bool:
    """Tell whether the answer has exactly `count` bullet points."""
    return count_bullets(text) == count


def has_numbered_items(text: str, count: int) -> bool:
    """Tell whether the answer has the numbered lines 1 to `count`, each once and in order."""
    return numbered_items(text) == list(range(1, count + 1))


def is_json(text: str) -> bool:
    """Tell whether the whole answer is JSON, with or without a fence around it."""
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inner)
    except ValueError:
        return False
    return True


def is_table(text: str) -> bool:
    """Tell whether the answer has a Markdown table: a row of cells, a rule, and at least one more row."""
    return re.search(r"^\s*\|.+\|\s*\n\s*\|[\s:|-]+\|\s*\n\s*\|.+\|", text, flags=re.MULTILINE) is not None


def is_lower_case(text: str) -> bool:
    """Tell whether the answer has letters, none of them a capital."""
    return text.islower()


def is_upper_case(text: str) -> bool:
    """Tell whether the answer has letters, all of them capitals."""
    return text.isupper()


def lacks_commas(text: str) -> bool:
    """Tell whether the answer has no comma."""
    return bool(text.strip()) and "," not in text


def ends_with_question(text: str) -> bool:
    """Tell whether the answer ends with a question mark."""
    return text.rstrip().endswith("?")


def has_exclamation(text: str) -> bool:
    """Tell whether the answer has an exclamation mark."""
    return "!" in text


def includes_word(text: str, word: str) -> bool:
    """Tell whether the answer has the word, whatever its case."""
    return count_occurrences(text, word) > 0


def avoids_word(text: str, word: str) -> bool:
    """Tell whether the answer does without the word, whatever its case."""
    return bool(text.strip()) and count_occurrences(text, word) == 0


def starts_with(text: str, phrase: str) -> bool:
    """Tell whether the answer begins with the phrase, whatever its case."""
    return text.lstrip().lower().startswith(phrase.lower())


def ends_with(text: str, phrase: str) -> bool:
    """Tell whether the answer ends with the phrase, whatever its case, and around it quotation marks or not."""
    return text.strip().strip('"').lower().endswith(phrase.lower())


def is_quoted(text: str) -> bool:
    """Tell whether the whole answer stands in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def is_in_language(text: str, language: str) -> bool:
    """Tell whether the answer is mostly in the language."""
    return detect_language(text) == language


def has_number(text: str) -> bool:
    """Tell whether the answer has a number in digits."""
    return re.search(r"\d", text) is not None


def lacks_digits(text: str) -> bool:
    """Tell whether the answer has no digit."""
    return bool(text.strip()) and not has_number(text)
