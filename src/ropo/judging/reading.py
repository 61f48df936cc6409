"""Read a verdict out of what a judge wrote: a letter or a grade, or nothing where the text does not say it plainly.

Judges are asked for one letter or one grade, and many write more: their thinking, a label, markup, JSON, a sentence.
What can be read in two ways, and what was cut before its end, is no verdict: the caller counts it as missing. A verdict
lost is seen in those counts, a verdict misread is not, so the rules below prefer to read nothing.
"""

from __future__ import annotations

__all__ = ["TEXT", "read_letter"]

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from ropo.judging.sentences import after_withdrawal, letter_of_cut, pure_letter, stated_letters, verdict_in

_THINKING = r"(?:seed:)?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad"
_OPENING = rf"<(?:{_THINKING})>|<\|begin_of_(?:{_THINKING})\|>|\[THINK\]|◁think▷|<\|channel\|?>\s*(?:analysis|thought)"
# The last two: where the answer proper begins in the channels of gpt-oss, whole and with special tokens left out.
_CLOSING = (
    rf"</(?:{_THINKING})>|<\|end_of_(?:{_THINKING})\|>|\[/THINK\]|◁/think▷|<channel\|>"
    r"|<\|channel\|>\s*final\s*<\|message\|>|assistantfinal"
)
_OPEN, _CLOSE = re.compile(_OPENING, re.IGNORECASE), re.compile(_CLOSING, re.IGNORECASE)
_BLOCK = re.compile(rf"(?:{_OPENING})(?:(?!{_OPENING}).)*?(?:{_CLOSING})", re.IGNORECASE | re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|<>]{1,30}\|>|</s>|<eos>|<end_of_turn>")

_LOWEST, _HIGHEST = 1.0, 10.0  # grades
_MOST = 0.5  # share of a token's mass above which its letters are what the judge was about to write
_NEGLIGIBLE = 0.01  # what a letter that was not told may change a preference by
SOURCES = LOG_PROBS, TEXT = "log-probabilities", "text"  # what a verdict was read from
_TAGS = re.compile(
    r"</?(?:final_)?(?:answer|verdict|winner|choice|decision|result|output|rating|score|grade|b|strong|em|p)>"
)
_JSON_KEYS = re.compile(
    r"answer|choice|verdict|winn\w+|better|best|prefer\w*|decision|judge?ment|result|selection|pick|final"
)
_JSON_GRADES = re.compile("rating|score|grade|mark")
_LONGEST_RUN = 100  # of marks and blanks; patterns would take minutes over tens of thousands
_RUN = re.compile(rf"[\W_]{{{_LONGEST_RUN + 1},}}")

# The letter that a text begins with, and whether it goes on as a verdict does ("A good question" does not).
_FIRST_LETTER = re.compile(r"[\W_]*([ABab])\b(\s+(?:because|since|wins|is (?:\w+ly )?better)\b)?")

_NUMBER = r"(\d+(?:\.\d+)?)"
_LISTED = r"\s*(?:[,;&|]|and\b)\s*\d+(?:[.,]\d+)?\s*(?:[.,;&|/)\]}]|and\b|or\b|$)"  # the second of several numbers
# As people say it: with a decimal comma too, but never the beginning of 1,000, nor one of several.
_SAID_NUMBER = rf"(\d+(?:\.\d+|,\d{{1,2}})?)(?![\d]|[.,]\d|{_LISTED})"
_NOUN = r"(?:rating|grade|score|mark)"
_GOES_ON = (
    "because|since|for|as|out|of|due|given|overall|and|but|so|with|points?|though|although|while|mainly|only|total|from|"
    "by|in|on|at|to"
)
# "Grade 5 pupils" and "score 3 goals" are no grades of an answer.
_LABEL = (
    rf"\b{_NOUN}\b(?!\s+\d+(?:[.,]\d+)?(?:\s+(?!(?:{_GOES_ON})\b)|-)[a-z])(?:\s+(?:is|of|would be))?"
    r"[\s:=*_`\"'“”(–—]*"
)
_TEN = r"\s*(?:/|out of)\s*10\b(?![.,]\d)"
_SUM = rf"(?:{_TEN})?\s*(?:\+\s*\d|,?\s*(?:minus|plus|less)\s+(?:\d|an?\b|one\b|two\b|three\b|half\b))"
_GLOSS = r"\s*(?:=|:|(?:is|being|means|for)\b)\s*[^\d\n]{1,40}?"
# Where a number is the lower end of a scale: "1 = worst, 5 = best", "1 being worst and 5 best", "1 (bad) to 5".
_BOUND = (
    r"\s*(?P<gloss>=|:|is\b|being\b|means\b)[^\d\n]{1,40}?(?<!\d)\d+\s*(?P=gloss)|\s*being\b[^\d\n]{1,40}?\d"
    r"|\s*\([^()\d]*\)\s*(?:-|–|—|to|through)\s*\d"
)
_END = rf"(?!%|\s*(?:/|out of)\s*(?!10\b(?![.,]\d))\d|\s*(?:-|–|to|or)\s*\d|{_SUM}|{_BOUND})(?:{_TEN})?"
_IN_BRACKETS = r"\[\[\s*{}\s*(?:/\s*10\s*)?\]\]"
_GIVEN = r"\bI(?:['’]d| would| will)?\s+(?:rate|give|score|grade|assign)\b[^.\d\n-]{0,40}?(?<![\d.-])"
_OF_TEN = re.compile(rf"(?<!\d,)(?<![\d./-]){_SAID_NUMBER}(?!{_SUM}){_TEN}")
# What a judge says of the scale, or of pupils: its numbers are no grades.
_SCALE = re.compile(
    rf"[(\[](?![^()\[\]]*/)[^()\[\]\d]*\b[01]{_GLOSS}\b10\b[^()\[\]\d]*[)\]]"
    rf"|[(\[](?![^()\[\]]*/)[^()\[\]\d]*\b10{_GLOSS}\b[01]\b[^()\[\]\d]*[)\]]"
    r"|[(\[][^()\[\]\d]*\b[01]\s*(?:-|–|—|to|through|and)\s*10[^()\[\]\d/]*[)\]]"
    r"|(?:\b(?:(?:on\s+)?a\s+scale\s+)?(?:of|from)\s+)?(?<![\d.,/-])[01]\s*(?:\([^()\d]*\))?\s*(?:-|–|—|to|through|and)"
    r"\s*10\b(?:\s*\([^()\d]*\))?(?!\s*[./,]\d)"
    r"|\b[01]\s*=\s*\w+[\s,;]+(?:and\s+)?10\s*=\s*\w+"
    rf"|\b(?:max(?:imum)?|min(?:imum)?|highest|lowest)\s+(?:possible\s+)?{_NOUN}\s*(?:is|=|:)\s*\d+"
    rf"|\b(?:start\w*|initial|base)\s+(?:(?:with|from|at|an?|the)\s+)*{_NOUN}\s*(?:(?:is|of|at)\b|[=:])?\s*\d+"
    r"|\b(?:for|of|in|at|from|through|above|below|under|beyond)\s+grades?\s+\d+(?:[.,]\d+)?\b(?!\s*(?:/|out of))",
    re.IGNORECASE,
)
# From the plainest form to the loosest. The last labelled one counts, as judges may change their mind.
_MARKED_RATINGS = (
    (re.compile(_LABEL + _IN_BRACKETS.format(_NUMBER), re.IGNORECASE), "last"),
    (re.compile(_IN_BRACKETS.format(_NUMBER)), "first"),  # as FastChat reads them
    (re.compile(_IN_BRACKETS.format(r"(\d+,\d{1,2})")), "only"),
)
_SAID_RATINGS = (
    (re.compile(_LABEL + rf"\[\s*{_NUMBER}\s*(?:/\s*10\s*)?\]", re.IGNORECASE), "last"),
    (re.compile(_LABEL + rf"(?<![\d.-]){_SAID_NUMBER}{_END}", re.IGNORECASE), "last"),
    (re.compile(_GIVEN + _SAID_NUMBER + _END + r"(?=\s*(?:[.,;!*]|$|\n|because|since|for))", re.IGNORECASE), "last"),
    (re.compile(rf"\[\s*{_NUMBER}\s*(?:/\s*10\s*)?\]"), "first"),  # FastChat's second form
    (_OF_TEN, "only"),
    (re.compile(rf"\A[\W_]*?(?<![\d./-]){_SAID_NUMBER}[\s*_`\"'.)]*\Z"), "only"),
)


def spoken(text: str) -> str:
    """Return what a judge says after its thinking; empty where it was cut while it thought.

    A closing mark without an opening one ends thinking that the chat template began.
    """
    while (shorter := _BLOCK.sub("\n", text)) != text:
        text = shorter
    text = _CLOSE.split(text)[-1]
    text = _OPEN.split(text)[0]
    return _SPECIAL.sub("", unicodedata.normalize("NFKC", text)).strip()


def is_thinking(text: str) -> bool:
    """Tell whether a text, such as a prompt's opening of the judge's turn, ends inside thinking."""
    return bool(_OPEN.search(_CLOSE.split(text)[-1]))


def read_letter(text: str, letters: str = "AB", cut: bool = False) -> str | None:
    """Return the letter that a text decides for, or None where it decides for none or for two.

    Args:
        text: What the judge wrote, its thinking included.
        letters: The letters asked for; `C` stands for a tie.
        cut: Whether it was cut at the longest answer; then only what is surely complete counts.
    """
    said = _answer(text)
    if _is_json(said):
        return _letter_in_json(said, letters)
    said = after_withdrawal(said)
    units = [unit for unit in re.split(r"(?<=[.!?;])\s+|\n+", said) if re.search(r"\w", unit)]
    if not units:
        return None
    if cut:
        return letter_of_cut(units, letters)
    listed = {match[1] for unit in units if (match := re.match(r"[\W_]*([ABC])\s*[:.)–—-]", unit))}
    found = [verdict_in(unit, letters, first=not number and len(listed) < 2) for number, unit in enumerate(units)]
    marked = set(re.findall(rf"\[\[\s*([{letters}])\s*\]\]", said))
    pure = {letter for letter, _ in filter(None, found)}
    stated = stated_letters(units, letters)
    if found[-1] is not None and (len(pure) == 1 or found[-1][1] == "label"):
        return found[-1][0]
    if marked:
        return marked.pop() if len(marked) == 1 else None
    if pure:
        return pure.pop() if len(pure | stated) == 1 else None
    return stated.pop() if len(stated) == 1 else _letter_in_json(said, letters)


def read_preference(
    text: str, first_token: Mapping[str, float] | None = None, cut: bool = False
) -> tuple[float, str] | None:
    """Return the probability that B is better, and what it was read from; None where the judge says neither.

    Log-probabilities of the first token give P(B) / (P(A) + P(B)), as AlpacaEval 2 weighs its judge, where both letters
    together hold more than half of that token's mass, and the text begins with a letter that is its verdict. Elsewhere
    a letter among the likeliest tokens says nothing of the verdict, and the text gives 0 or 1. So it does where so few
    tokens are told that a letter that is not among them could matter.

    Args:
        text: What the judge wrote.
        first_token: Log-probabilities of the likeliest first tokens, in nats.
        cut: Whether the text was cut at the longest answer.
    """
    letter, said = read_letter(text, "AB", cut), _answer(text)
    withdrawn = letter is None and after_withdrawal(said) != said
    opening = None if withdrawn else _FIRST_LETTER.match(text)
    if first_token and opening and (opening[1].upper() == letter or (letter is None and opening[2])):
        mass = {"A": 0.0, "B": 0.0}
        for token, log_prob in first_token.items():
            written = token.strip(" \n\t*[]().\"'")
            if written in mass:
                mass[written] += math.exp(log_prob)
        total = sum(mass.values())
        if total > _MOST and (min(mass.values()) > 0.0 or _untold(first_token) <= _NEGLIGIBLE * total):
            return mass["B"] / total, LOG_PROBS
    return None if letter is None else (float(letter == "B"), TEXT)


def _untold(first_token: Mapping[str, float]) -> float:
    """Return the most probability that a token can have which is not among the likeliest ones."""
    told = [math.exp(log_prob) for log_prob in first_token.values()]
    return max(0.0, min(min(told), 1.0 - sum(told)))


def read_rating(text: str, cut: bool = False) -> float | None:
    """Return the grade from 1 to 10 in a text, or None where it holds none, or several and does not say which.

    Args:
        text: What the judge wrote, its thinking included.
        cut: Whether it was cut at the longest answer; then a number at its very end may lack digits.
    """
    said = _answer(text)
    if _is_json(said):
        return _in_scale(_values_in_json(said, _JSON_GRADES))
    if cut and not said.endswith("]]"):
        said = said[: len(said) - len(said.split()[-1])] if said else said
    plain = _SCALE.sub(" ", after_withdrawal(said))
    for text_read, patterns in ((said, _MARKED_RATINGS), (plain, _SAID_RATINGS)):
        for pattern, which in patterns:
            if not (found := list(pattern.finditer(text_read))):
                continue
            grade = found[-1 if which == "last" else 0]
            others = found if which == "only" else _OF_TEN.finditer(text_read, grade.end()) if which == "last" else ()
            # "Score: 7/10 for style and 9/10 for facts" is two grades, and neither is the answer's.
            return _in_scale([grade[1]]) if {_number(each[1]) for each in others} <= {_number(grade[1])} else None
    return _in_scale(_values_in_json(said, _JSON_GRADES))


def _answer(text: str) -> str:
    """Return what a judge says after its thinking, without tags and with the middle of long runs of marks left out."""
    said = _TAGS.sub(" ", spoken(text)).strip()
    return _RUN.sub(lambda run: run[0][: _LONGEST_RUN // 2] + run[0][-_LONGEST_RUN // 2 :], said)


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _letter_in_json(said: str, letters: str) -> str | None:
    found = {each[0] for value in _values_in_json(said, _JSON_KEYS) if (each := pure_letter(value, letters))}
    return found.pop() if len(found) == 1 else None


def _in_scale(found: list[str]) -> float | None:
    """Return the one number of a list if it is a grade."""
    numbers = set()
    for value in found:
        match = re.fullmatch(rf"\s*{_SAID_NUMBER}\s*(?:(?:/|out of)\s*10)?\s*", value)
        numbers.add(_number(match[1]) if match else None)
    grade = numbers.pop() if len(numbers) == 1 else None
    return grade if grade is not None and _LOWEST <= grade <= _HIGHEST else None


def _is_json(said: str) -> bool:
    return bool(re.match(r"(?:```\w*\s*)?(?:\[\s*)?\{\s*\"", said))


def _values_in_json(said: str, keys: re.Pattern[str]) -> list[str]:
    """Return the values under some keys of the JSON objects in a text; of a broken one, those that are complete."""
    objects: list[list[tuple[str, str]]] = []
    start = said.find("{")
    while start >= 0:
        try:
            whole, end = json.JSONDecoder().raw_decode(said, start)
            objects.append([(key, str(value)) for key, value in _pairs(whole)])
        except RecursionError:  # nested by the thousand, which no verdict is
            return []
        except ValueError:
            end = start + 1
        start = said.find("{", end)
    if not objects:
        number = r"(\d+(?:\.\d+|,\d{1,2})?)(?=\s*(?:,(?!\s*\d)|\}))"
        broken = re.findall(rf"\"([\w ]{{1,40}})\"\s*:\s*(?:\"([^\"]{{1,40}})\"|{number})", said)
        objects = [[(key, text or number) for key, text, number in broken]]
    pairs = [pair for each in objects for pair in each]
    wanted = [value for key, value in pairs if any(map(keys.fullmatch, re.split(r"[\W_]+", key.lower())))]
    return wanted if wanted or len(pairs) != 1 else [pairs[0][1]]


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, each in value.items() if isinstance(value, dict) else ():
        yield from _pairs(each) if isinstance(each, dict) else [(key, each)]
