"""Decide whether an answer satisfies an instruction. Each checker takes the answer and the instruction's parameters."""

from __future__ import annotations

__all__ = ()

import json
import re
from typing import NoReturn

from ropo.core.words import has_word, runs_of_letters

_ABBREVIATIONS = ("Dr", "Mr", "Ms", "Mrs", "St", "vs", "e.g", "i.e")
# An initial ("J. Smith") or an abbreviation before the full stop ends no sentence. The marks of other scripts end one
# whatever comes next.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])"
    + "".join(rf"(?<!\b{re.escape(short)})" for short in _ABBREVIATIONS)
    + r"[.!?]+[\"')\]]*(?=\s|$)"
    + r"|[。！？｡।॥؟۔។။]+[\"')\]”’」』）]*"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", flags=re.MULTILINE)
_FUNCTION_WORDS = {
    "English": "the of and to in is that it for as was with are be this by on you which from have or an at not can",
    "French": "le la les des et en est que une un du dans pour qui sur pas au avec ce il sont par plus ne se aux cette",
    "German": "der die das und ist in den von zu mit auf ein eine nicht des dem im für sich auch es sie sind wie als",
    "Italian": "il di che e la un una è per non in del sono con le della gli si dei al alla lo più come nel anche",
    "Spanish": "el de que y la en un una es los las se por con para del al lo como más su está son o también este",
}
VOCABULARIES = {language: frozenset(text.split()) for language, text in _FUNCTION_WORDS.items()}
# Fewer than this share of function words is no running text in any of the languages.
_LEAST_SHARE = 0.15


def ifeval_words(text: str) -> list[str]:
    r"""Return the words, as IFEval counts them (`\w+`; Zhou et al., 2023, arXiv 2311.07911) where spaces part words.

    A mark belongs to its letter, and in scripts without spaces each letter is a word; see `ropo.core.words`.
    """
    return runs_of_letters(text)


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
    """Tell whether the answer has exactly `count` sentences.

    A line without an end mark is one too, and a list's marks end none.
    """
    lines = _LIST_MARK.sub("", text).splitlines()
    found = (sentence for line in lines for sentence in _SENTENCE_END.split(line))
    return sum(any(letter.isalnum() for letter in sentence) for sentence in found) == count


def has_paragraphs(text: str, count: int) -> bool:
    """Tell whether the answer has exactly `count` paragraphs separated by blank lines."""
    return sum(1 for block in re.split(r"\n\s*\n", text) if block.strip()) == count


def has_bullets(text: str, count: int) -> bool:
    """Tell whether the answer has exactly `count` lines that begin with `-` or a single `*`, as IFEval counts them."""
    return len(re.findall(r"^\s*(?:\*[^*]|-)", text, flags=re.MULTILINE)) == count


def has_numbered_items(text: str, count: int) -> bool:
    """Tell whether the answer has the lines 1 to `count`, as in `1. ` or `1) `, each once and in order."""
    found = re.findall(r"^\s*(\d{1,3})[.)]\s", text, flags=re.MULTILINE)
    return [int(number) for number in found] == list(range(1, count + 1))


def is_json(text: str) -> bool:
    """Tell whether the whole answer is a JSON object, with or without a fence around it."""
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        return isinstance(json.loads(inner, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):  # the latter of a thousand brackets
        return False


def _refuse(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON has not."""
    raise ValueError(constant)


def is_table(text: str) -> bool:
    """Tell whether the answer has a Markdown table: a row of cells, a rule, and at least one more row."""
    return re.search(r"^\s*\|.+\|\s*\n\s*\|[\s:|-]+\|\s*\n\s*\|.+\|", text, flags=re.MULTILINE) is not None


def lacks_commas(text: str) -> bool:
    """Tell whether the answer has no comma."""
    return bool(text.strip()) and not set(text) & set(",，、،")


def ends_with_question(text: str) -> bool:
    """Tell whether the answer ends with a question mark."""
    return text.rstrip().endswith(("?", "？", "؟"))


def has_exclamation(text: str) -> bool:
    """Tell whether the answer has an exclamation mark."""
    return "!" in text or "！" in text


def includes_word(text: str, word: str) -> bool:
    """Tell whether the answer has the word, whatever its case, not as a part of another word."""
    return has_word(text, word)


def avoids_word(text: str, word: str) -> bool:
    """Tell whether the answer does without the word, whatever its case."""
    return bool(text.strip()) and not includes_word(text, word)


def starts_with(text: str, phrase: str) -> bool:
    """Tell whether the answer begins with the phrase, whatever its case."""
    return text.lstrip().lower().startswith(phrase.lower())


def ends_with(text: str, phrase: str) -> bool:
    """Tell whether the answer ends with the phrase, whatever its case, and around it quotation marks or not."""
    text = text.strip().lower()
    return text.strip('"').endswith(phrase.lower()) or text.endswith(phrase.lower())


def is_quoted(text: str) -> bool:
    """Tell whether the whole answer stands in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def is_in_language(text: str, language: str) -> bool:
    """Tell whether the answer, running text of a few sentences, has the most function words of the language."""
    tokens = [word.lower() for word in ifeval_words(text)]
    hits = {name: sum(token in known for token in tokens) for name, known in VOCABULARIES.items()}
    (best, most), (_, second) = sorted(hits.items(), key=lambda item: -item[1])[:2]
    return best == language and most > second and most >= _LEAST_SHARE * len(tokens)


def has_number(text: str) -> bool:
    """Tell whether the answer has a number in digits."""
    return re.search(r"\d", text) is not None


def lacks_digits(text: str) -> bool:
    """Tell whether the answer has no digit."""
    return bool(text.strip()) and not has_number(text)
