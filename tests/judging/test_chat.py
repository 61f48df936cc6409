"""A chat model that grades and compares answers: what it is asked, and what becomes of its replies."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.judging.chat import ChatJudge, Failure, Reply, comparing, grading
from ropo.judging.judge import Duel, VerdictStore
from ropo.lm.sampling import PromptRecord

TURNS = [{"role": "system", "content": "Be {brief}."}, {"role": "user", "content": "Why?"}]
PROMPT = PromptRecord({}, TURNS, 3)


class Scripted:
    """Answer each answer with its own verdict, and remember what was asked."""

    name = "openai:scripted"
    identity = {"model": "scripted"}  # noqa: RUF012
    max_tokens = 7

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


def judge_of(folder, **verdicts):
    said = {name: Reply(each, 10, 2) if isinstance(each, str) else each for name, each in verdicts.items()}
    return ChatJudge(Scripted(said), VerdictStore(folder))


def grades(judge, answers):
    return [verdict.value for verdict in judge.grade(PROMPT, answers)]


def test_the_judge_sees_the_whole_conversation_and_one_answer():
    [turn] = grading(PROMPT, "Because {x} % of [[10]].")
    assert turn["role"] == "user"
    for part in ("system: Be {brief}.", "user: Why?", "<answer>\nBecause {x} % of [[10]].\n</answer>", "[[5]]"):
        assert part in turn["content"]


def test_grades_come_in_order_and_are_asked_once(tmp_path):
    judge = judge_of(tmp_path, one="[[3]]", two="[[9]]", three="[[5]]")
    assert judge.name == "openai:scripted"
    assert grades(judge, ["two", "one", "three"]) == [9.0, 3.0, 5.0]
    again = judge_of(tmp_path, one="[[1]]", two="[[1]]", three="[[1]]")
    assert grades(again, ["one", "two", "three"]) == [3.0, 9.0, 5.0]
    assert again.chat.asked == []
    assert (judge.meter.calls, again.meter.calls, again.meter.kept) == (3, 0, 3)


def test_an_answer_without_a_grade_is_none_and_counted(tmp_path):
    cut = Reply("<think>So far [[9]]", cut=True)
    judge = judge_of(tmp_path, good="[[4]]", vague="very good", refused=Failure("refused (400)"), cut=cut)
    assert grades(judge, ["good", "vague", "refused", "cut"]) == [4.0, None, None, None]
    assert dict(judge.meter.failures) == {"unparsable verdict": 1, "refused (400)": 1, "cut before its verdict": 1}
    assert judge.meter.missing == (3, 4)


def test_a_judge_that_is_down_ends_the_run(tmp_path):
    down = Failure("no connection", passing=True)
    judge = judge_of(tmp_path, one=down, two=down, three="[[5]]")
    with pytest.raises(UserError, match=r"line 3: the judge gave no reply to any of 2 answers \(no connection\)"):
        grades(judge, ["one", "two"])
    assert grades(judge, ["one", "three"]) == [None, 5.0]


def test_the_question_shows_request_and_answers_in_order():
    prompt = PromptRecord({}, [{"role": "user", "content": "Why {so}?"}], 1)
    text = comparing(Duel(prompt, "one {0}", "two {x}"))[-1]["content"]
    places = [text.index(part) for part in ("Why {so}?", "Answer A:", "one {0}", "Answer B:", "two {x}")]
    assert places == sorted(places)
    assert comparing(Duel(prompt, "one", "two")) == comparing(Duel(prompt, "two", "one").swapped())


def test_earlier_turns_are_shown():
    turns = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yo"), ("user", "Go on"))]
    text = comparing(Duel(PromptRecord({}, turns, 1), "x", "y"))[-1]["content"]
    assert "user: Hi\n\nassistant: Yo\n\nuser: Go on" in text
