"""The letters that lines and sentences of a verdict decide for."""

from __future__ import annotations

__all__ = ()

import re

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
_DENIED = re.compile(
    r"\b(?:not|no|never|hardly|nobody|none (?:of|would|will|could)|few (?:\w+ )?would)\b|n't\b"
    r"|\b(?:I|we|one|you|would|\w+ly) doubt\b|\bdoubt(?:s|ed)? (?:that|whether)\b"
    r"|\b(?:I|we) (?:\w+ly )?(?:disagree|deny|dispute|reject|refuse|question|hesitate)\b"
    r"|\b(?:wrong|false|untrue|incorrect|unlikely|doubtful|dubious|questionable|debatable|mistaken?) (?:to \w+ )?that\b"
    r"|\b(?:was|were) going to\b|\b(?:wanted|tempted) to\b",
    re.IGNORECASE,
)
_SURE = re.compile(r"\b(?:there is|I have)? ?no doubt\b", re.IGNORECASE)
# "No" as a word of its own, and its kin, take back what was said before. Where they answer a question they do not.
_ONLY_IF_A_LETTER_FOLLOWS = rf"(?=\W+(?:the\s+)?(?:{_NOUN}\s+)?(?-i:[ABC])\b)"
_TAKEN_BACK = re.compile(
    r"(?:(?:\n|(?<=[.!;…])|,|…|—|–|\s-)[\s\"'*_]*)"
    r"(?:(?:hmm*|wait|oh|well|actually|sorry|ah|uh|um|er)\b[\s,.…—–-]*){0,4}"
    r"(?:no\b(?:[\s,.…—–-]*\b(?:wait|hold on|sorry|actually)\b|(?=\s*(?:[,:!…—–]|\.(?!\s*\d)|\s-\s|\Z)))"
    r"|(?:scratch|strike) that\b|on second thoughts?\b|my mistake\b"
    r"|I (?:take (?:that|it|this) back|(?:have )?changed? my mind|was wrong)\b"
    rf"|(?:(?:or )?rather|I mean|make that|correction)\b{_ONLY_IF_A_LETTER_FOLLOWS})",
    re.IGNORECASE,
)
_LONGEST_LEAD = 300  # characters before a reason
_REASON = re.compile(r"[,(:;–—]|\s-\s|\b(?:because|since|due to)\b")


def after_withdrawal(said: str) -> str:
    """Return what a text says after it last took back what it had said; all of it where it never did."""
    ends = [
        found.end()
        for found in _TAKEN_BACK.finditer(said)
        if re.search(r"\w", said[: found.start()]) and not said[: found.start()].endswith("?")
    ]
    return said[ends[-1] :].lstrip(" ,.:;!—–-…") if ends else said


# A text is taken line by line and sentence by sentence. A unit that is nothing but a verdict outweighs sentences that
# call one answer the better one, and of several units only a labelled last one outweighs the others.
def verdict_in(unit: str, letters: str, first: bool) -> tuple[str, str] | None:
    """Return the letter of a line or sentence that is nothing but a verdict, perhaps with its reason, and its kind.

    Kinds are `label` ("Verdict: B", "I choose B"), `noun` ("Answer B", which may be a heading) and `bare` ("B").
    """
    if found := pure_letter(unit, letters):
        return found
    for mark in _REASON.finditer(unit, 0, _LONGEST_LEAD):
        found = pure_letter(unit[: mark.start()], letters)
        if found is None:
            continue
        rest = unit[mark.end() :]
        reasoned = mark[0][0].isalpha() or re.match(r"\s*(?:because|since)\b", rest)
        another = not reasoned and re.match(r"[\W_]*(?:or\b|and\b)?[\W_]*[ABC]\b(?!\w)", rest)
        if not another and (reasoned or found[1] == "label" or (found[1] == "bare" and first and found[0] in unit)):
            return found
        return None
    return None


def pure_letter(unit: str, letters: str) -> tuple[str, str] | None:
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


def stated_letters(units: list[str], letters: str) -> set[str]:
    """Return the letters that sentences call the better one; only the conclusion's where one is drawn."""
    all_found: set[str] = set()
    concluded: set[str] = set()
    for unit in units:
        plain = re.sub(rf"(?i)\b(?:the\s+)?(first|second)\s+(?:{_NOUN}|one)\b", _ordinal, unit)
        found = {
            match[1]
            for pattern in _STATEMENTS
            for match in pattern.finditer(plain)
            if match[1] in letters and not _DENIED.search(_SURE.sub("", plain[: match.end()]))
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


def letter_of_cut(units: list[str], letters: str) -> str | None:
    """Read a text without an end: a letter alone, a first line that is one, or a labelled verdict before the end."""
    if len(units) == 1:
        found = verdict_in(units[0], letters, first=False)
        alone = found is not None and (found[1] == "bare" or re.search(r"[:=\[][\W_]*[ABC][\W_]*$", units[0]))
        return found[0] if found and (alone or re.search(r"\b(?:because|since)\b", units[0])) else None
    leading = [(number, pure_letter(unit, letters)) for number, unit in enumerate(units[:-1])]
    kept = {each[0] for number, each in leading if each and (each[1] == "label" or (each[1] == "bare" and number == 0))}
    if marked := re.fullmatch(r".*\[\[([ABC])\]\]\W*", units[-1], re.DOTALL):
        kept.add(marked[1])
    return kept.pop() if len(kept) == 1 else None
