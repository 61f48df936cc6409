"""How a chat judge is asked about two answers."""

from __future__ import annotations

from ropo.evaluation.alpaca_eval.question import pair_question
from ropo.judging.pairwise import Duel
from ropo.lm.sampling import PromptRecord


def test_the_question_shows_request_and_answers_in_order():
    prompt = PromptRecord({}, [{"role": "user", "content": "Why {so}?"}], 1)
    text = pair_question(Duel(prompt, "one {0}", "two {x}"))[-1]["content"]
    places = [text.index(part) for part in ("Why {so}?", "Answer A:", "one {0}", "Answer B:", "two {x}")]
    assert places == sorted(places)
    assert pair_question(Duel(prompt, "one", "two")) == pair_question(Duel(prompt, "two", "one").swapped())


def test_earlier_turns_are_shown():
    turns = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yo"), ("user", "Go on"))]
    text = pair_question(Duel(PromptRecord({}, turns, 1), "x", "y"))[-1]["content"]
    assert "user: Hi\n\nassistant: Yo\n\nuser: Go on" in text
