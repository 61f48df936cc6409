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

_LOWEST, _HIGHEST = 1.0, 10.0  # grades
_MOST = 0.5  # share of a token's mass above which its letters are what the judge was about to write
_NEGLIGIBLE = 0.01  # what a letter that was not told may change a preference by
SOURCES = LOG_PROBS, TEXT = "log-probabilities", "text"  # what a verdict was read from

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
_TAGS = re.compile(
    r"</?(?:final_)?(?:answer|verdict|winner|choice|decision|result|output|rating|score|grade|b|strong|em|p)>"
)

_NOUN = r"(?:answers?|options?|responses?|assistants?|models?|outputs?|candidates?|repl(?:y|ies)|choices?|completions?)"
# The words that may stand before the letter of a verdict; a label says that it is one, a noun alone may be a heading.
_NOUNS = re.compile(rf"{_NOUN}|the")
_LABELS = re.compile(
    "verdict|final|better|best|winner|winning|choose|chose|pick|select|selected|prefer|preferred|preference|decision|"
    "judge?ment|conclusion|result|overall|therefore|thus|so|hence|boxed|is|vote|go|superior|preferable"
)
_FILLERS = re.compile(
    "my|i|i'd|i'll|it|it's|would|will|say|that|with|for|one|text|be|was|in|finally|ultimately|summary|correct|selection|"
    "evaluation|wait|actually|hmm|sorry|correction|revised"
)
_JSON_KEYS = re.compile(
    r"answer|choice|verdict|winn\w+|better|best|prefer\w*|decision|judge?ment|result|selection|pick|final"
)
_JSON_GRADES = re.compile("rating|score|grade|mark")

_NAMED = rf"(?:(?i:{_NOUN})[\s_]*)?[*_\"'(\[]*\b([ABC])\b[*_\"')\]]*"
_BETTER = (
    r"(?:better|best|superior|preferable|preferred|stronger|winner|(?:more|most) (?:helpful|useful|suitable)|"
    r"(?:correct|right) (?:answer|choice|option|one))"
    r"\b(?!-)(?!\s+(?:in(?!\s+(?:every|all|general)\b)|(?:at|with|on|for|when|regarding)\b|\w+(?:ed|ten)\b))"
)
_STATEMENTS = (
    re.compile(
        rf"{_NAMED}\s+(?i:(?:is|was|seems|appears|remains)\s+(?:(?:\w+ly|a|the|much|far|still|overall|just)\s+)*{_BETTER}"
        r"|(?:\w+ly\s+)?(?:wins|beats|outperforms|surpasses)\b)"
    ),
    re.compile(
        rf"(?i:\b(?:choose|chose|pick|select|prefer|favou?r|recommend|vote for|go(?:ing)? with|opt for)\s+(?:the\s+)?)"
        rf"{_NAMED}"
    ),
    re.compile(
        rf"(?i:\b(?:better|best|superior|preferred|winning|final)\s+(?:{_NOUN}|one|choice|verdict)\s+(?:is|would be)"
        rf"\s+(?:\w+ly\s+)?|\b(?:winner|verdict|choice) is\s+)(?i:the\s+)?{_NAMED}"
    ),
)
_CONCLUDED = re.compile(
    r"\W*(?:so|overall|therefore|thus|hence|in conclusion|in summary|ultimately|finally)\b", re.IGNORECASE
)
_OPEN_ENDED = re.compile(  # a sentence that weighs, supposes or asks says nothing
    r"\?|\b(?:if|unless|whether|depend\w*|or|nor|neither|either|hard|difficult|unclear|unsure|cannot|can't|unable|equal|"
    r"equally|tied?|initially|at first|might|may|could|perhaps|maybe)\b",
    re.IGNORECASE,
)
_CONCEDED = re.compile(r"\b(?:but|although|though|however|while|whereas|yet|and)\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|no|never|hardly)\b|n't\b", re.IGNORECASE)
_REASON = re.compile(r"[,(:;–—]|\s-\s|\b(?:because|since|due to)\b")

# The letter that a text begins with, and whether it goes on as a verdict does ("A good question" does not).
_FIRST_LETTER = re.compile(r"[\W_]*([ABab])\b(\s+(?:because|since|wins|is (?:\w+ly )?better)\b)?")

_NUMBER = r"(\d+(?:\.\d+)?)"
_LABEL = r"\b(?:rating|grade|score|mark)\b(?:\s+(?:is|of|would be))?[\s:=*_`\"'“”(–—]*"
_END = r"(?![\d%]|\.\d|\s*(?:/|out of)\s*(?!10\b(?!\.\d))\d|\s*(?:-|–|to|or)\s*\d)(?:\s*(?:/|out of)\s*10\b)?"
_IN_BRACKETS = rf"\[\[\s*{_NUMBER}\s*(?:/\s*10\s*)?\]\]"
_GIVEN = r"\bI(?:['’]d| would| will)?\s+(?:rate|give|score|grade|assign)\b[^.\d\n-]{0,40}?(?<![\d.-])"
_OF_TEN = re.compile(rf"(?<![\d./-]){_NUMBER}\s*(?:/|out of)\s*10\b(?!\.\d)")
# From the plainest form to the loosest. The last labelled one counts, as judges may change their mind.
_RATINGS = (
    (re.compile(_LABEL + _IN_BRACKETS, re.IGNORECASE), "last"),
    (re.compile(_IN_BRACKETS), "first"),  # as FastChat reads them
    (re.compile(_LABEL + rf"\[\s*{_NUMBER}\s*(?:/\s*10\s*)?\]", re.IGNORECASE), "last"),
    (re.compile(_LABEL + rf"(?<![\d.-]){_NUMBER}{_END}", re.IGNORECASE), "last"),
    (re.compile(_GIVEN + _NUMBER + _END + r"(?=\s*(?:[.,;!*]|$|\n|because|since|for))", re.IGNORECASE), "last"),
    (re.compile(rf"\[\s*{_NUMBER}\s*(?:/\s*10\s*)?\]"), "first"),  # FastChat's second form
    (_OF_TEN, "only"),
    (re.compile(rf"\A[\W_]*?(?<![\d./-]){_NUMBER}[\s*_`\"'.)]*\Z"), "only"),
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
    said = _TAGS.sub(" ", spoken(text)).strip()
    if _is_json(said):
        return _letter_in_json(said, letters)
    units = [unit for unit in re.split(r"(?<=[.!?;])\s+|\n+", said) if re.search(r"\w", unit)]
    if not units:
        return None
    if cut:
        return _letter_of_cut(units, letters)
    listed = {match[1] for unit in units if (match := re.match(r"[\W_]*([ABC])\s*[:.)–—-]", unit))}
    found = [_verdict_in(unit, letters, first=not number and len(listed) < 2) for number, unit in enumerate(units)]
    marked = set(re.findall(rf"\[\[\s*([{letters}])\s*\]\]", said))
    pure = {letter for letter, _ in filter(None, found)}
    stated = _stated(units, letters)
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
    letter = read_letter(text, "AB", cut)
    opening = _FIRST_LETTER.match(text)
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
    said = _TAGS.sub(" ", spoken(text)).strip()
    if _is_json(said):
        return _in_scale(_values_in_json(said, _JSON_GRADES))
    if cut and not said.endswith("]]"):
        said = said[: len(said) - len(said.split()[-1])] if said else said
    for pattern, which in _RATINGS:
        if not (found := list(pattern.finditer(said))):
            continue
        grade = found[-1 if which == "last" else 0]
        others = found if which == "only" else _OF_TEN.finditer(said, grade.end()) if which == "last" else ()
        # "Score: 7/10 for style and 9/10 for facts" is two grades, and neither is the answer's.
        return _in_scale([grade[1]]) if {float(each[1]) for each in others} <= {float(grade[1])} else None
    return _in_scale(_values_in_json(said, _JSON_GRADES))


# A text is taken line by line and sentence by sentence. A unit that is nothing but a verdict outweighs sentences that
# call one answer the better one, and of several units only a labelled last one outweighs the others.
def _verdict_in(unit: str, letters: str, first: bool) -> tuple[str, str] | None:
    """Return the letter of a line or sentence that is nothing but a verdict, perhaps with its reason, and its kind.

    Kinds are `label` ("Verdict: B", "I choose B"), `noun` ("Answer B", which may be a heading) and `bare` ("B").
    """
    if found := _pure(unit, letters):
        return found
    for mark in _REASON.finditer(unit):
        found = _pure(unit[: mark.start()], letters)
        if found is None:
            continue
        rest = unit[mark.end() :]
        reasoned = mark[0][0].isalpha() or re.match(r"\s*(?:because|since)\b", rest)
        another = not reasoned and re.match(r"[\W_]*(?:or\b|and\b)?[\W_]*[ABC]\b(?!\w)", rest)
        if not another and (reasoned or found[1] == "label" or (found[1] == "bare" and first and found[0] in unit)):
            return found
        return None
    return None


def _pure(unit: str, letters: str) -> tuple[str, str] | None:
    """Return the letter that a unit ends with, and its kind, where only words that lead to it stand before."""
    words = re.findall(r"[^\W_]+(?:'[a-z]+)?", unit.replace("’", "'"))
    if not words or "?" in unit or len(words) > 12:
        return None
    *lead, last = (word.lower() for word in words)
    letter = "C" if last in ("tie", "draw") else last.upper()
    lead = [word for word in lead if not (letter == "C" and word == "a")]
    if letter not in tuple(letters) or not all(map(_may_lead, lead)):
        return None
    labelled = any(map(_LABELS.fullmatch, lead)) or re.search(rf"\w\W*[:=][\W_]*{re.escape(words[-1])}[\W_]*$", unit)
    return letter, "label" if labelled else "noun" if lead else "bare"


def _may_lead(word: str) -> bool:
    return any(kind.fullmatch(word) for kind in (_NOUNS, _LABELS, _FILLERS))


def _stated(units: list[str], letters: str) -> set[str]:
    """Return the letters that sentences call the better one; only the conclusion's where one is drawn."""
    all_found: set[str] = set()
    concluded: set[str] = set()
    for unit in units:
        plain = re.sub(rf"(?i)\b(?:the\s+)?(first|second)\s+(?:{_NOUN}|one)\b", _ordinal, unit)
        found = {
            match[1]
            for pattern in _STATEMENTS
            for match in pattern.finditer(plain)
            if match[1] in letters and not _DENIED.search(plain[: match.end()])
        }
        compared = re.sub(rf"\b(?:than|over|to)\s+(?:the\s+)?{_NAMED}", "", plain)
        others = set(re.findall(r"\b[ABC]\b", compared)) - found
        weighs = bool(others) and _CONCEDED.search(plain)
        if _OPEN_ENDED.search(plain) or len(found) != 1 or weighs:
            all_found |= found if len(found) > 1 else set()
            continue
        all_found |= found
        if _CONCLUDED.match(plain):
            concluded |= found
    return concluded or all_found


def _ordinal(match: re.Match[str]) -> str:
    return "answer A" if match[1].lower() == "first" else "answer B"


def _letter_of_cut(units: list[str], letters: str) -> str | None:
    """Read a text without an end: a letter alone, a first line that is one, or a labelled verdict before the end."""
    if len(units) == 1:
        found = _verdict_in(units[0], letters, first=False)
        alone = found is not None and (found[1] == "bare" or re.search(r"[:=\[][\W_]*[ABC][\W_]*$", units[0]))
        return found[0] if found and (alone or re.search(r"\b(?:because|since)\b", units[0])) else None
    leading = [(number, _pure(unit, letters)) for number, unit in enumerate(units[:-1])]
    kept = {each[0] for number, each in leading if each and (each[1] == "label" or (each[1] == "bare" and number == 0))}
    if marked := re.fullmatch(r".*\[\[([ABC])\]\]\W*", units[-1], re.DOTALL):
        kept.add(marked[1])
    return kept.pop() if len(kept) == 1 else None


def _is_json(said: str) -> bool:
    return bool(re.match(r"(?:```\w*\s*)?(?:\[\s*)?\{\s*\"", said))


def _letter_in_json(said: str, letters: str) -> str | None:
    found = {each[0] for value in _values_in_json(said, _JSON_KEYS) if (each := _pure(str(value), letters))}
    return found.pop() if len(found) == 1 else None


def _values_in_json(said: str, keys: re.Pattern[str]) -> list[Any]:
    """Return the values under some keys of the JSON objects in a text; of a broken one, those that are complete."""
    objects: list[list[tuple[str, Any]]] = []
    start = said.find("{")
    while start >= 0:
        try:
            whole, length = json.JSONDecoder().raw_decode(said[start:])
            objects.append(list(_pairs(whole)))
        except ValueError:
            length = 1
        start = said.find("{", start + length)
    if not objects:
        broken = re.findall(r"\"([\w ]+)\"\s*:\s*(?:\"([^\"]{1,40})\"|(\d+(?:\.\d+)?)(?=\s*[,}]))", said)
        objects = [[(key, text or number) for key, text, number in broken]]
    pairs = [pair for each in objects for pair in each]
    wanted = [value for key, value in pairs if any(map(keys.fullmatch, re.split(r"[\W_]+", key.lower())))]
    return wanted if wanted or len(pairs) != 1 else [pairs[0][1]]


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, each in value.items() if isinstance(value, dict) else ():
        yield from _pairs(each) if isinstance(each, dict) else [(key, each)]


def _in_scale(found: list[Any]) -> float | None:
    """Return the one number of a list if it is a grade."""
    numbers = set()
    for value in found:
        match = re.fullmatch(rf"\s*{_NUMBER}\s*(?:(?:/|out of)\s*10)?\s*", str(value))
        numbers.add(float(match[1]) if match and not isinstance(value, bool) else None)
    grade = numbers.pop() if len(numbers) == 1 else None
    return grade if grade is not None and _LOWEST <= grade <= _HIGHEST else None
