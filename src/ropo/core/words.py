"""What a word is, in every script; whoever counts or looks for words asks here."""

from __future__ import annotations

__all__ = ["has_word", "runs_of_letters", "spaced", "words_and_marks"]

import regex

# Scripts without spaces between words, each of whose letters is a word of its own here. Script extensions bring along
# what two of them share, such as the Japanese mark of a long vowel.
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = r"(?:(?=[\p{L}\p{Nl}])[" + "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS) + "])"
_OTHER = rf"(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}_])"  # without the lookahead Python's own \w
# Between a mark and a letter a joiner only chooses a shape, as in Sinhala.
_RUN = rf"{_OTHER}(?:{_OTHER}|\p{{M}}|(?<=\p{{M}})[\u200c\u200d](?=\p{{L}}))*"
_LETTER = regex.compile(rf"{_UNSPACED}\p{{M}}*")
_LAST = regex.compile(rf"{_LETTER.pattern}$")
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|{_RUN}")
_WORD_OR_MARK = regex.compile(rf"{_WORD.pattern}|[^\p{{L}}\p{{N}}_\s\x1c-\x1f]")  # \x1c to \x1f are spaces to Python

_ALL_MARKS = r"(?:(?<![\p{L}\p{N}\p{M}_])|(?!\p{M}))"  # behind a letter: no further mark changes it


def runs_of_letters(text: str) -> list[str]:
    """Return the words of a text: runs of letters with their marks, digits and `_`, or single letters (`_SCRIPTS`)."""
    return _WORD.findall(text)


def words_and_marks(text: str) -> list[str]:
    """Return the words of a text and, each by itself, whatever else is no space."""
    return _WORD_OR_MARK.findall(text)


def spaced(text: str) -> str:
    """Return a text with spaces around the letters of scripts that put none between words."""
    return _LETTER.sub(r" \g<0> ", text)


def has_word(text: str, word: str) -> bool:
    """Tell whether a text has a word, whatever its case, not as a part of another word.

    A word may end in a sign (C++). Where letters are words of their own, no border is asked for.
    """
    before = "" if _LETTER.match(word) else rf"(?<!{_OTHER}\p{{M}}*)"
    after = "" if _LAST.search(word) else rf"(?!{_OTHER})"
    return regex.search(f"{before}{regex.escape(word)}{_ALL_MARKS}{after}", text, flags=regex.IGNORECASE) is not None
