"""Count what an answer is made of, and tell its language by its most frequent words."""

from __future__ import annotations

__all__ = ()

import re

_ABBREVIATIONS = ("Dr", "Mr", "Ms", "Mrs", "St", "vs", "e.g", "i.e")
# An initial ("J. Smith") or an abbreviation before the full stop ends no sentence.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])" + "".join(rf"(?<!\b{re.escape(short)})" for short in _ABBREVIATIONS) + r"[.!?]+[\"')\]]*(?=\s|$)"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", flags=re.MULTILINE)
_FUNCTION_WORDS = {
    "English": "the of and to in is that it for as was with are be this by on you which from have or an at not can",
    "French": "le la les des et en est que une un du dans pour qui sur pas au avec ce il sont par plus ne se aux cette",
    "German": "der die das und ist in den von zu mit auf ein eine nicht des dem im für sich auch es sie sind wie als",
    "Italian": "il di che e la un una è per non in del sono con le della gli si dei al alla lo più come nel anche",
    "Spanish": "el de que y la en un una es los las se por con para del al lo como más su está son o también este",
}
_VOCABULARIES = {language: frozenset(text.split()) for language, text in _FUNCTION_WORDS.items()}
# Fewer than this share of function words is no running text in any of the languages.
_LEAST_SHARE = 0.15


def ifeval_words(text: str) -> list[str]:
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


def detect_language(text: str) -> str | None:
    """Return the language with the most function words in the text, or None without a clear winner.

    Args:
        text: Running text; a few sentences are enough.

    Returns:
        A key of `_FUNCTION_WORDS`, or None for a tie or too few function words.
    """
    tokens = [word.lower() for word in ifeval_words(text)]
    hits = {language: sum(token in known for token in tokens) for language, known in _VOCABULARIES.items()}
    (best, most), (_, second) = sorted(hits.items(), key=lambda item: -item[1])[:2]
    return best if most > second and most >= _LEAST_SHARE * len(tokens) else None
