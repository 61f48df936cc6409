"""What the kept verdicts of a reward model depend on."""

from __future__ import annotations

import pytest

from ropo.judging.chat import Meter
from ropo.judging.pairwise import Duel
from ropo.judging.scored import ScorerJudge
from ropo.judging.scorers import RewardModelScorer
from ropo.lm.sampling import PromptRecord
from tests.tiny_reward import save_tiny_reward


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_reward(tmp_path_factory.mktemp("rm"))


def judge(model, folder, *duels):
    asked = [Duel(PromptRecord({}, [{"role": "user", "content": text}], 1), a, b) for text, a, b in duels]
    found = ScorerJudge(RewardModelScorer(model), folder, Meter())
    preferences = found.compare(asked, lambda duels: None)
    return [each.second for each in preferences], found.meter.calls, found.meter.kept


@pytest.mark.parametrize(
    "other", [("a dog", "yes", "no"), ("the cat", "no", "no"), ("the cat", "yes", "yes"), ("the cat", "no", "yes")]
)
def test_another_prompt_or_answer_is_another_verdict(tmp_path, model, other):
    verdict, calls, kept = judge(model, tmp_path, ("the cat", "yes", "no"))
    assert (calls, kept) == (1, 0)
    assert judge(model, tmp_path, ("the cat", "yes", "no")) == (verdict, 0, 1)
    assert judge(model, tmp_path, other)[1:] == (1, 0)
