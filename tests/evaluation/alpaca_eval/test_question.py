"""How a chat judge is asked about two answers, and how its reply is read."""

from __future__ import annotations

import math

import pytest

from ropo.evaluation.alpaca_eval.question import pair_question, read_preference
from ropo.judging.chat import Reply
from ropo.judging.pairwise import Duel
from ropo.lm.sampling import PromptRecord


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A", 0.0),
        ("B", 1.0),
        (" b.\n", 1.0),
        ("**A**", 0.0),
        ("[[B]]", 1.0),
        ("Answer B", 1.0),
        ("The better answer is A.", 0.0),
        ("My verdict: B", 1.0),
        ("B\n\nBecause the answer is right.", 1.0),
        ("A good question.", None),
        ("A or B", None),
        ("Both are good.", None),
        ("AB", None),
        ("C", None),
        ("Answer", None),
        ("I would say that B, but A is fine", None),
    ],
)
def test_only_a_verdict_counts(text, wanted):
    assert read_preference(Reply(text)) == wanted


def test_log_probabilities_weigh_the_verdict():
    """P(A) = 0.2 + 0.1 (with a blank), P(B) = 0.6: B wins with 0.6 / 0.9."""
    tokens = {"B": math.log(0.6), "A": math.log(0.2), " A": math.log(0.1), "The": math.log(0.1), "b": math.log(0.05)}
    assert read_preference(Reply("B", first_token=tokens)) == pytest.approx(0.6 / 0.9)
    assert read_preference(Reply("B", first_token={"The": -0.1})) == 1.0


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
