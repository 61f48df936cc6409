"""Count what an answer is made of."""

from __future__ import annotations

__all__ = ()

import re

_ABBREVIATIONS = ("Dr", "Mr", "Ms", "Mrs", "St", "vs", "e.g", "i.e")
# An initial ("J. Smith") or an abbreviation before the full stop ends no sentence.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])" + "".join(rf"(?<!\b{re.escape(short)})" for short in _ABBREVIATIONS) + r"[.!?]+[\"')\]]*(?=\s|$)"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", flags=re.MULTILINE)


def words(text: str) -> list[str]:
    r"""Return the runs of word characters (`\w+`), as IFEval counts them (Zhou et al., 2023, arXiv 2311.07911)."""
    return re.findall(r"\w+", text)


def count_sentences(text: str) -> int:
    """Count sentences: a line without an end mark is one too, and a list's marks end none."""
    lines = _LIST_MARK.sub("", text).splitlines()
    return sum(
        1 for line in lines for sentence in _SENTENCE_END.split(line) if any(letter.isalnum() for letter in sentence)
    )


def count_paragraphs(text: str) -> int:
    """Count the blocks of text that blank lines separate."""
    return sum(1 for block in re.split(r"\n\s*\n", text) if block.strip())


def count_bullets(text: str) -> int:
    """Count the lines that begin with `-` or a single `*`, as IFEval counts them."""
    return len(re.findall(r"^\s*(?:\*[^*]|-)", text, flags=re.MULTILINE))


def numbered_items(text: str) -> list[int]:
    """Return the numbers that open lines, as in `1. ` or `1) `."""
    return [int(number) for number in re.findall(r"^\s*(\d{1,3})[.)]\s", text, flags=re.MULTILINE)]


def count_occurrences(text: str, word: str) -> int:
    """Count a word, whatever its case, not as a part of another word."""
    return len(re.findall(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE))
