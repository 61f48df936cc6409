"""How a chat model is asked which of two answers is better."""

from __future__ import annotations

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


def pair_question(duel: Duel) -> list[Turn]:
    """Ask about a duel; earlier turns of its prompt come before the request."""
    request = "\n\n".join(
        turn["content"] if len(duel.prompt.turns) == 1 else f"{turn['role']}: {turn['content']}"
        for turn in duel.prompt.turns
    )
    asked = QUESTION.format(request=request, first=duel.first, second=duel.second)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
