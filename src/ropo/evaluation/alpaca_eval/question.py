"""How a chat model is asked which of two answers is better, and how its reply is read."""

from __future__ import annotations

import math
import re

from ropo.judging.chat import Reply
from ropo.judging.pairwise import Duel
from ropo.lm.prompts import Turn

SYSTEM = (
    "You compare two answers to one request and decide which of them serves the person who asked better. Look at "
    "whether the answer does what was asked, is correct, and is clear. Being long is no merit and being short is no "
    "fault. The order in which the two stand means nothing."
)
QUESTION = """The request:
<request>
{request}
</request>

Answer A:
<answer_a>
{first}
</answer_a>

Answer B:
<answer_b>
{second}
</answer_b>

Which answer is better? Reply with one letter and nothing else: A or B."""
LEAD = r"(?:(?:the\s+)?(?:better|best|final|answer|response|verdict|choice|one|is|my)\b[\s:*]*)*"
VERDICT = re.compile(rf"[\W_]*{LEAD}[\W_]*([AB])[\W_]*", re.IGNORECASE)


def pair_question(duel: Duel) -> list[Turn]:
    """Ask about a duel; earlier turns of its prompt come before the request."""
    request = "\n\n".join(
        turn["content"] if len(duel.prompt.turns) == 1 else f"{turn['role']}: {turn['content']}"
        for turn in duel.prompt.turns
    )
    asked = QUESTION.format(request=request, first=duel.first, second=duel.second)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def read_preference(reply: Reply) -> float | None:
    """Return the probability that B is better, or None where the reply says neither.

    With log-probabilities of the first token it is P(B) / (P(A) + P(B)), as AlpacaEval 2 weighs its judge; otherwise 0
    or 1. Only a reply, or a first line, that is nothing but a verdict counts: "A good question" is none.
    """
    if reply.first_token:
        mass = {"A": 0.0, "B": 0.0}
        for token, logprob in reply.first_token.items():
            letter = token.strip(" \n\t*[]().\"'")
            if letter in mass:
                mass[letter] += math.exp(logprob)
        if total := sum(mass.values()):
            return mass["B"] / total
    text = reply.text.strip()
    for part in (text, text.splitlines()[0]) if text else ():
        if found := VERDICT.fullmatch(part):
            return float(found[1].upper() == "B")
    return None
