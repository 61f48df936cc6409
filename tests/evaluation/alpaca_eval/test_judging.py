"""Order, swaps and bookkeeping of pairwise verdicts."""

from __future__ import annotations

import pytest

from ropo.evaluation.alpaca_eval.formats import Outputs
from ropo.evaluation.alpaca_eval.measure import duels_to_judge, judge_outputs
from ropo.judging.judge import Meter, Verdict
from ropo.judging.scores import function_judge
from ropo.lm.sampling import PromptRecord

COUNT = 200
PROMPTS = [PromptRecord({}, [{"role": "user", "content": f"request {i}"}], i + 1) for i in range(COUNT)]
GOOD = Outputs("model", [f"good {i}" for i in range(COUNT)])
BAD = Outputs("reference", [f"bad {i}" for i in range(COUNT)])


class Fake:
    """A judge made of a function of a duel."""

    name, longest = "fake", None

    def __init__(self, decide):
        self.meter, self.seen, self.decide = Meter(), [], decide

    def check(self, prompt):
        raise NotImplementedError

    def grade(self, prompt, answers):
        raise NotImplementedError

    def prefer(self, duels, advance):
        self.seen += duels
        advance(len(duels))
        return [Verdict(self.decide(duel)) for duel in duels]


def knows(duel):
    return float(duel.second.startswith("good"))


def test_orders_are_random_seeded_and_independent_of_the_other_prompts():
    judge = Fake(knows)
    verdicts = judge_outputs(judge, PROMPTS, GOOD, BAD, 0, 0)
    first = [duel.first.startswith("good") for duel in judge.seen]
    assert 60 < sum(first) < 140
    assert verdicts.wins.tolist() == [1.0] * COUNT
    again, fewer, other = Fake(knows), Fake(knows), Fake(knows)
    judge_outputs(again, PROMPTS, GOOD, BAD, 0, 0)
    judge_outputs(fewer, PROMPTS[5:], Outputs("model", GOOD.texts[5:]), Outputs("r", BAD.texts[5:]), 0, 0)
    judge_outputs(other, PROMPTS, GOOD, BAD, 1, 0)
    assert again.seen == judge.seen != other.seen
    assert fewer.seen == judge.seen[5:]


@pytest.mark.parametrize(
    ("decide", "agreement", "first", "wins"),
    [(knows, 1.0, 0.5, 1.0), (lambda duel: 0.0, 0.0, 1.0, 0.5), (lambda duel: 0.5, 1.0, 0.5, 0.5)],
)
def test_both_orders_show_a_judge_that_looks_at_the_place(decide, agreement, first, wins):
    judge = Fake(decide)
    found = judge_outputs(judge, PROMPTS, GOOD, BAD, 0, 40)
    assert len(judge.seen) == COUNT + 40 == duels_to_judge(GOOD, BAD, 40)
    assert len(found.orders.agree) == 40
    assert found.orders.agree.mean() == agreement
    assert found.orders.first_preferred.mean() == first
    assert found.wins.mean() == pytest.approx(wins, abs=0.1)
    duels = {(duel.first, duel.second) for duel in judge.seen}
    assert len(duels) == COUNT + 40, "every swapped duel is another one"


def test_missing_verdicts_are_ties_and_counted():
    judge = Fake(lambda duel: None if duel.prompt.line <= 10 else knows(duel))
    found = judge_outputs(judge, PROMPTS, GOOD, BAD, 0, COUNT)
    assert found.missing.sum() == found.orders.missing == 10
    assert found.wins[:10].tolist() == [0.5] * 10
    assert found.wins[10:].tolist() == [1.0] * (COUNT - 10)


def test_equal_outputs_are_a_tie_without_a_question():
    judge = Fake(knows)
    outputs = Outputs("model", [*BAD.texts[:30], *GOOD.texts[30:]])
    found = judge_outputs(judge, PROMPTS, outputs, BAD, 0, 0)
    assert len(judge.seen) == COUNT - 30 == duels_to_judge(outputs, BAD, 0)
    assert found.equal == 30
    assert found.wins[:30].tolist() == [0.5] * 30
    assert not found.missing.any()


def test_a_scorer_judges_too(tmp_path):
    judge = function_judge("length", lambda record, answers: [len(answer) for answer in answers])
    found = judge_outputs(judge, PROMPTS, GOOD, BAD, 0, 20)
    assert found.wins.tolist() == [1.0] * COUNT
    assert found.orders.agree.all()
    evil = Outputs("r", [f"evil {i}" for i in range(COUNT)])
    tied = judge_outputs(judge, PROMPTS, GOOD, evil, 0, 20)
    assert tied.wins.tolist() == [0.5] * COUNT
    assert tied.orders.agree.all()
