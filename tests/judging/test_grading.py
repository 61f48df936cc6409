"""A chat model that grades answers, as a scorer of `ropo pairs`."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.judging.chat import Failure, Reply
from ropo.judging.grading import ChatScorer, grading
from ropo.judging.scorers import Scorer, scores_of, verdicts_of
from ropo.judging.verdicts import VerdictStore
from ropo.lm.sampling import PromptRecord

TURNS = [{"role": "system", "content": "Be {brief}."}, {"role": "user", "content": "Why?"}]
PROMPT = PromptRecord({}, TURNS, 3)


class Scripted:
    """Answer each answer with its own verdict, and remember what was asked."""

    name = "openai:scripted"
    identity = {"model": "scripted"}  # noqa: RUF012

    def __init__(self, verdicts):
        self.verdicts, self.asked = verdicts, []

    def ask(self, conversations, keep, meter):
        for number, turns in reversed(list(enumerate(conversations))):  # in any order
            [answer] = [answer for answer in self.verdicts if f"<answer>\n{answer}\n</answer>" in turns[0]["content"]]
            self.asked.append(answer)
            found = self.verdicts[answer]
            if isinstance(found, Reply):
                keep(number, found)
            else:
                meter.count_failure(found.reason)
            yield number, found


def scorer(folder, **verdicts):
    said = {name: Reply(each, 10, 2) if isinstance(each, str) else each for name, each in verdicts.items()}
    return ChatScorer(Scripted(said), VerdictStore(folder))


def test_the_judge_sees_the_whole_conversation_and_one_answer():
    [turn] = grading(PROMPT, "Because {x} % of [[10]].")
    assert turn["role"] == "user"
    for part in ("system: Be {brief}.", "user: Why?", "<answer>\nBecause {x} % of [[10]].\n</answer>", "[[5]]"):
        assert part in turn["content"]


def test_grades_come_in_order_and_are_asked_once(tmp_path):
    judge = scorer(tmp_path, one="[[3]]", two="[[9]]", three="[[5]]")
    assert isinstance(judge, Scorer)
    assert judge.name == "openai:scripted"
    assert scores_of(judge, PROMPT, ["two", "one", "three"]) == [9.0, 3.0, 5.0]
    again = scorer(tmp_path, one="[[1]]", two="[[1]]", three="[[1]]")
    assert scores_of(again, PROMPT, ["one", "two", "three"]) == [3.0, 9.0, 5.0]
    assert again.chat.asked == []
    assert (judge.meter.calls, again.meter.calls, again.meter.kept) == (3, 0, 3)


def test_an_answer_without_a_grade_is_none_and_counted(tmp_path):
    cut = Reply("<think>So far [[9]]", cut=True)
    judge = scorer(tmp_path, good="[[4]]", vague="very good", refused=Failure("refused (400)"), cut=cut)
    assert verdicts_of(judge, PROMPT, ["good", "vague", "refused", "cut"]) == [4.0, None, None, None]
    assert dict(judge.meter.failures) == {"unparsable verdict": 1, "refused (400)": 1, "cut before its verdict": 1}
    assert judge.meter.missing == (3, 4)
    with pytest.raises(UserError, match="must return finite numbers, got"):
        scores_of(judge, PROMPT, ["good", "vague"])


def test_a_judge_that_is_down_ends_the_run(tmp_path):
    down = Failure("no connection", passing=True)
    judge = scorer(tmp_path, one=down, two=down, three="[[5]]")
    with pytest.raises(UserError, match=r"line 3: the judge gave no reply to any of 2 answers \(no connection\)"):
        verdicts_of(judge, PROMPT, ["one", "two"])
    assert verdicts_of(judge, PROMPT, ["one", "three"]) == [None, 5.0]
