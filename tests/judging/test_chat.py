"""A chat model that grades and compares answers: what it is asked, and what becomes of its replies."""

from __future__ import annotations

import json

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


@pytest.mark.parametrize("one", ["very good", Failure("refused (400)"), Reply("", cut=True)])
def test_equal_answers_are_missing_each_among_all_that_were_asked_for(tmp_path, one):
    """They share one reply, but each of them has a verdict or has none."""
    judge = judge_of(tmp_path, one=one, two="[[4]]")
    assert grades(judge, ["one", "two", "one", "one", "two", "one"]) == [None, 4.0, None, None, 4.0, None]
    assert len(judge.chat.asked) == 2
    assert judge.meter.missing == (4, 6)
    again = judge_of(tmp_path, one=one, two="[[4]]")
    assert grades(again, ["two", "two", "two", "one"]) == [4.0, 4.0, 4.0, None]
    assert again.meter.missing == (1, 4)


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


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Zürich"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLING = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
RESULT = {"role": "tool", "content": "dry"}
FLAT = {"name": "weather", "arguments": {"place": "Zürich"}}


@pytest.mark.parametrize("tools", [[TOOL], '[{"type": "function", "function": {"name": "weather", "parameters": {}}}]'])
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
@pytest.mark.parametrize("call", [CALL, {"function": FLAT}, FLAT])
def test_calls_and_tools_are_shown_and_no_content_as_none(tools, content, call):
    turns = [CALLING[0], {"role": "assistant", **content, "tool_calls": [call]}, RESULT]
    prompt = PromptRecord({}, turns, 1, {"tools": tools})
    written = tools if isinstance(tools, str) else json.dumps(tools)
    shown = 'assistant: tool_calls: [{"name": "weather", "arguments": {"place": "Zürich"}}]'
    wanted = f"tools: {written}\n\nuser: Rain?\n\n{shown}\n\ntool: dry"
    assert wanted in grading(prompt, "x")[-1]["content"]
    assert wanted in comparing(Duel(prompt, "x", "y"))[-1]["content"]


def test_a_turn_may_speak_and_call_or_do_neither():
    turns = [CALLING[0], {**CALLING[1], "content": "I look."}, RESULT, {"role": "system", "content": ""}, CALLING[0]]
    text = grading(PromptRecord({}, turns, 1), "x")[-1]["content"]
    assert "assistant: I look.\ntool_calls: [" in text
    assert "\n\nsystem: \n\nuser: Rain?" in text
    assert "None" not in text
    assert "tools:" not in text


def test_the_tools_of_a_single_turn_are_shown():
    text = comparing(Duel(PromptRecord({}, CALLING[:1], 1, {"tools": [TOOL]}), "x", "y"))[-1]["content"]
    assert f"<request>\ntools: {json.dumps([TOOL])}\n\nuser: Rain?\n</request>" in text
