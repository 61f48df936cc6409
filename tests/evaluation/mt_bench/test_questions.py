"""FastChat's files: what is read, and what is refused."""

from __future__ import annotations

import json
import re

import pytest

from ropo.core.errors import UserError
from ropo.evaluation.mt_bench.benchmark import NAMES, JudgePrompts
from ropo.evaluation.mt_bench.questions import Question, read_answers, read_questions, write_answers

GOOD = {"question_id": 1, "category": "math", "turns": ["a", "b"]}


def write(path, *records):
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def test_the_real_files(shared_data):
    folder = shared_data / "prompts"
    questions = read_questions(folder / "mt_bench.questions.jsonl")
    assert len(questions) == 80
    guided = [question for question in questions if question.guided]
    assert {question.category for question in guided} == {"math", "reasoning", "coding"}
    references = read_answers(folder / "mt_bench.reference_answers.jsonl", guided, "reference answers")
    assert len(references) == len(guided) == 30
    temperatures = {question.category: question.temperature for question in questions}
    assert temperatures == {
        "writing": 0.7,
        "roleplay": 0.7,
        "extraction": 0.0,
        "math": 0.0,
        "coding": 0.0,
        "reasoning": 0.0,
        "stem": 0.1,
        "humanities": 0.1,
    }
    prompts = JudgePrompts(folder / "mt_bench.judge_prompts.jsonl")
    seen = set()
    for question in questions:
        reference = references.get(question.number, [])
        answers, others = ["first {answer}", "second answer"], ["first other", "second other"]
        for turn in (1, 2):
            single = prompts.single(question, turn, answers, reference)
            pair = prompts.pair(question, turn, answers, others, reference)
            for asked, texts in ((single, [answers]), (pair, [answers, others])):
                text = asked[1]["content"]
                seen.add(asked[0]["content"] + str(len(texts)) + str(turn) + str(question.guided))
                assert not re.search(r"\{(question|answer|ref)", text.replace("{answer}", ""))
                shown = [question.turns[:turn], *(each[:turn] for each in texts)]
                shown += [reference[:turn]] if question.guided else []
                for part in (part for parts in shown for part in parts):
                    assert part in text, (question.number, turn)
                assert (texts[0][1] in text) == (turn == 2)
    assert len(seen) == len(NAMES) == 8


def test_a_limit_takes_from_every_category(shared_data):
    questions = read_questions(shared_data / "prompts" / "mt_bench.questions.jsonl", 9)
    assert len(questions) == 9
    assert len({question.category for question in questions}) == 8
    assert [question.number for question in questions] == sorted(question.number for question in questions)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**GOOD, "question_id": "x"}, "jsonl:2: `question_id` must be a whole number"),
        ({**GOOD, "question_id": 2, "category": None}, "jsonl:2: `category` must be a text"),
        ({**GOOD, "question_id": 2, "turns": ["a"]}, "jsonl:2: `turns` must be 2 non-empty texts"),
        ({**GOOD, "question_id": 2, "turns": ["a", ""]}, "jsonl:2: `turns` must be 2 non-empty texts"),
        ({**GOOD, "question_id": 2, "turns": None}, "jsonl:2: `turns` must be 2 non-empty texts"),
        (GOOD, "jsonl:2: question_id 1 stands further up"),
        ("[1]", "jsonl:2: is a list, not an object"),
        ("{", "jsonl:2: is not valid JSON"),
    ],
)
def test_a_malformed_question_is_named(tmp_path, record, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_questions(write(tmp_path / "q.jsonl", GOOD, record))


def test_no_questions(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(UserError, match="holds no record"):
        read_questions(write(tmp_path / "q.jsonl", "", ""))


def test_answers_come_back_and_missing_ones_are_counted(tmp_path):
    questions = [Question(number, "math", ("a", "b")) for number in (1, 2, 3)]
    answers = {1: ["x", "y"], 2: ["", "z"], 3: ["u", "v"]}
    write_answers(tmp_path / "a.jsonl", "m", questions, answers)
    assert read_answers(tmp_path / "a.jsonl", questions, "answers") == answers
    write_answers(tmp_path / "a.jsonl", "m", questions[:1], answers)
    with pytest.raises(UserError, match="lack 2 of 3 questions, the first question_id 2"):
        read_answers(tmp_path / "a.jsonl", questions, "answers")
    with pytest.raises(UserError, match=r"jsonl:1: needs `question_id` and `choices`"):
        read_answers(write(tmp_path / "a.jsonl", {"question_id": 1, "choices": []}), questions, "answers")


def prompts_file(path, **changes):
    records = [{"name": name, "system_prompt": "s", "prompt_template": "t"} for name in NAMES.values()]
    return write(path, *({**each, **changes.get(each["name"].replace("-", "_"), {})} for each in records))


def test_judge_prompts_are_checked_before_anything_is_asked(tmp_path):
    JudgePrompts(prompts_file(tmp_path / "p.jsonl"))
    for template, message in (
        ("{reply}", 'unknown field "reply"'),
        ("{answer_2}", "answer_2"),
        ("{", "double a brace"),
    ):
        with pytest.raises(UserError, match=message):
            JudgePrompts(prompts_file(tmp_path / "p.jsonl", single_v1={"prompt_template": template}))
    with pytest.raises(UserError, match="needs the texts"):
        JudgePrompts(prompts_file(tmp_path / "p.jsonl", single_v1={"system_prompt": None}))
    with pytest.raises(UserError, match="have no prompt named single-v1"):
        JudgePrompts(prompts_file(tmp_path / "p.jsonl", single_v1={"name": "x"}))


def test_only_the_prompts_that_are_asked_with_are_needed(tmp_path):
    changes = {name.replace("-", "_"): {"name": "x"} for name in NAMES.values() if name.startswith("pair")}
    file = prompts_file(tmp_path / "p.jsonl", **changes)
    JudgePrompts(file, [False])
    with pytest.raises(UserError, match="have no prompt named pair-v2"):
        JudgePrompts(file, [True])
