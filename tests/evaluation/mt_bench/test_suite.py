"""The suite `mt-bench` as a user runs it, against a server that misbehaves."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from ropo.cli.main import main
from ropo.evaluation.results import read_results
from ropo.judging import local
from ropo.lm.sampling import sampler
from tests.evaluation.fake_endpoint import endpoint_flags, serving

KEY = "sk-secret-4711"
CATEGORIES = ("writing", "math")
IDS = tuple(range(1, 9))  # even numbers are mathematics


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = [{"question_id": i, "category": CATEGORIES[1 - i % 2], "turns": [f"the cat {i}", "a dog"]} for i in IDS]
    write("questions.jsonl", *asked)
    write("reference.jsonl", *(answer_of(i, "right", "right too") for i in IDS if not i % 2))
    write("prompts.jsonl", *judge_prompts())
    for name, word in (("good", "good"), ("bad", "bad")):
        write(f"{name}.jsonl", *(answer_of(i, f"{word} {i}", f"{word} {i} again") for i in IDS))
    return tmp_path


def answer_of(number, *turns):
    return {"question_id": number, "choices": [{"turns": list(turns)}]}


def judge_prompts():
    for kind, guided in (("single", ""), ("single", "-math"), ("pair", ""), ("pair", "-math")):
        answers = ["{answer_a}", "{answer_b}"] if kind == "pair" else ["{answer}"]
        version = "v2" if kind == "pair" and not guided else "v1"
        for turns in ("", "-multi-turn"):
            shown = [f"{each[:-1]}_2}}" if turns else each for each in answers]
            template = f"{kind}{guided}{turns} | " + " | ".join(shown) + (" | ref {ref_answer_1}" if guided else "")
            yield {"name": f"{kind}{guided}-{version}{turns}", "system_prompt": "s", "prompt_template": template}


def write(name, *records):
    with open(name, "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


FILES = {"--questions": "questions.jsonl", "--reference_answers": "reference.jsonl", "--judge_prompts": "prompts.jsonl"}


def evaluate(*arguments):
    files = [part for flag, file in FILES.items() if flag not in arguments for part in (flag, file)]
    return main(["evaluate", "mt-bench", *map(str, arguments), *files, "--output", "out"])


def judgment(body):
    """Give 8 to good answers and 3 to bad ones, one more in the second turn; prefer good ones, else the first."""
    kind, *shown = body["messages"][1]["content"].split(" | ")
    if "math" in kind:
        assert shown.pop() == "ref right"
    assert all(("again" in each) == kind.endswith("multi-turn") for each in shown)
    if kind.startswith("single"):
        grade = (8 if "good" in shown[0] else 3) + kind.endswith("multi-turn")
        return "unsure" if shown[0] == "bad 3" else f"Fine. [[{grade}]]"
    first, second = shown
    return "[[B]]" if "good" in second and "bad" in first else "[[A]]"


def test_grades_by_turn_and_category(place, capsys):
    def faults(text, before):
        return "500" if "good 5 again" in text else "429" if "good 2" in text and not before else None

    with serving(answer=judgment, faults=faults) as server:
        assert evaluate("good.jsonl", "bad=bad.jsonl", *endpoint_flags(server)) == 0
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == 4 * len(IDS) - 1
        before = server.answered.total()
        assert evaluate("good.jsonl", "bad=bad.jsonl", *endpoint_flags(server), "--overwrite") == 0
        assert server.answered.total() == before, "verdicts are kept"
    result = read_results(place / "out")
    good, bad = result.models
    assert good.metric("score").value == pytest.approx((8 * 8 + 7 * 9) / 15)
    assert (good.metric("score_turn_1").value, good.metric("score_turn_2").value) == (8.0, 9.0)
    assert good.metric("score_math").value == 8.5
    assert good.metric("score_unanswered").value == 1 / 16
    assert bad.metric("score_unparsable").value == 1 / 16
    assert bad.metric("score_unparsable").count == 16
    assert bad.metric("score").value == pytest.approx((7 * 3 + 8 * 4) / 15)
    assert bad.details["score_by_category"]["writing"]["turn_1"] == {"mean": 3.0, "count": 3}
    assert bad.details["score_missing"] == {"unparsable verdict": 1}
    assert bad.change("score").value == pytest.approx(-5.0)
    assert bad.change("score").high < 0
    assert any("bad, score: no number in 1 of 16 verdicts (1 unparsable verdict)" in note for note in result.notes)
    assert "unparsable" in capsys.readouterr().out
    files = [file for file in place.rglob("*") if file.is_file()]
    assert len(files) > 30
    assert not any(KEY in file.read_text() for file in files)
    lines = (place / "out" / "judgments" / "score" / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines][4:6] == [None, 4.0]


@pytest.mark.parametrize(
    "form",
    [
        "Rating: {}",
        "{}/10",
        "**Rating:** {}/10",
        '{{"explanation": "not 1/10", "rating": {}}}',
        "<think>Rating: [[1]]</think>Rating: [[{}]]",
        "[[1]] or so?\n</think>\nI give it {} out of 10.",
    ],
)
def test_grades_in_other_words_are_read_and_thoughts_are_not(place, form):
    with serving(answer=lambda body: form.format(8 if "good" in body["messages"][1]["content"] else 3)) as server:
        assert evaluate("good.jsonl", "bad.jsonl", *endpoint_flags(server)) == 0
    result = read_results(place / "out")
    assert [model.metric("score").value for model in result.models] == [8.0, 3.0]
    assert "good.jsonl, score: verdicts were read 0 from log-probabilities, 16 from text; 0 of 16 are missing" in (
        result.notes
    )


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("Style 7/10, accuracy 3/10", "unparsable verdict"),
        ({"message": {"content": "<think>Rating: [[9]]"}, "finish_reason": "length"}, "cut before its verdict"),
    ],
)
def test_grades_that_cannot_be_read_are_said_loudly(place, capsys, choice, reason):
    with serving(answer=lambda body: choice) as server:
        assert evaluate("good.jsonl", *endpoint_flags(server)) == 0
    result = read_results(place / "out")
    assert result.models[0].metric("score").value is None
    assert result.models[0].metric("score_unparsable").value == 1.0
    assert result.notes[0].startswith(f"WARNING: good.jsonl, score: 16 of 16 verdicts are missing (16 {reason})")
    assert result.notes[0] in capsys.readouterr().err.splitlines()


def test_comparisons_in_other_words(place):
    """A tie is a verdict here, as FastChat's prompt offers one."""

    def answer(body):
        second = body["messages"][1]["content"].split(" | ")[2]
        if "math" in body["messages"][1]["content"]:
            return "<think>[[A]]</think>It is a tie."
        return "<think>[[A]] [[B]]</think>**Assistant " + ("B**" if "good" in second else "A**")

    with serving(answer=answer) as server:
        assert evaluate("bad.jsonl", "good.jsonl", "--mode", "pairwise", *endpoint_flags(server)) == 0
    good = read_results(place / "out").models[1]
    assert (good.details["wins"], good.details["ties"], good.details["losses"]) == (8, 8, 0)
    assert good.metric("win_rate_unparsable").value == 0.0


def test_comparisons_in_both_orders(place):
    """Against itself a judge that takes the first says nothing: ties only, and no agreement."""
    write("same.jsonl", *(answer_of(i, f"bad {i}.", f"bad {i} again.") for i in IDS))
    flags = ("bad.jsonl", "good.jsonl", "same.jsonl", "again=good.jsonl", "--mode", "pairwise")
    with serving(answer=judgment) as server:
        assert evaluate(*flags, *endpoint_flags(server)) == 0
        assert server.answered.total() == 2 * 2 * 2 * len(IDS)
    first, good, same, again = read_results(place / "out").models
    assert first.metrics == []
    assert good.metric("win_rate").value == 100.0
    assert (good.details["wins"], good.details["ties"], good.details["losses"]) == (16, 0, 0)
    assert good.metric("order_agreement").value == 1.0
    assert good.metric("first_preferred").value == 0.5
    assert same.metric("win_rate").value == 50.0
    assert same.details["ties"] == 16
    assert same.metric("order_agreement").value == 0.0
    assert same.metric("first_preferred").value == 1.0
    assert good.changes == [], "a win rate is against the first model already"
    for model, change in ((same, -50.0), (again, 0.0)):
        assert (model.change("win_rate").value, model.change("win_rate").reference) == (change, "good.jsonl")


def test_single_grades_need_no_prompts_of_comparisons(place, capsys):
    write("prompts.jsonl", *(each for each in judge_prompts() if each["name"].startswith("single")))
    with serving(answer=judgment) as server:
        assert evaluate("good.jsonl", *endpoint_flags(server)) == 0
    assert evaluate("good.jsonl", "bad.jsonl", "--mode", "both", "--overwrite", *endpoint_flags(server)) == 2
    assert "have no prompt named pair-v2" in capsys.readouterr().err


def test_a_model_answers_both_turns_and_is_loaded_once(place, model, monkeypatch):
    """Two turns at two temperatures; an interrupted run's answers are there already, and need no model."""
    seen, loads = [], []
    load = sampler.load_sampler_model
    monkeypatch.setattr(sampler, "load_sampler_model", lambda source: loads.append(source) or load(source))

    def answer(body):
        seen.append(body["messages"][1]["content"])
        return "[[5]]"

    with serving(answer=answer) as server:
        flags = (f"tiny={model}", "--max_new_tokens", 4, "--limit", 3)
        assert evaluate(*flags, *endpoint_flags(server)) == 0
        assert loads == [model]
        assert evaluate(*flags, *endpoint_flags(server), "--overwrite") == 0
        assert loads == [model]
    (tiny,) = read_results(place / "out").models
    assert tiny.metric("score").value == 5.0
    lines = [json.loads(line) for line in (place / "out" / "answers" / "tiny.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [1, 2, 3]
    assert all(len(line["choices"][0]["turns"]) == 2 for line in lines)
    assert len(seen) <= 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("good.jsonl", "--judge", "rules"), "judge must be `openai:MODEL` or `transformers:MODEL`"),
        (("good.jsonl", "--judge_key_variable", "NO_SUCH"), "NO_SUCH holds no key"),
        (("good.jsonl", "--mode", "triple"), "mode: input should be 'single', 'pairwise' or 'both'"),
        (("good.jsonl", "--mode", "pairwise"), "needs a second model"),
        (("half.jsonl",), "lack 6 of 8 questions, the first question_id 3"),
        (("good.jsonl", "--reference_answers", "half.jsonl"), "lack 3 of 4 questions"),
        (("good.jsonl", "--questions", "prompts.jsonl"), "jsonl:1: `question_id` must be a whole number"),
        (("good.jsonl", "--judge_prompts", "questions.jsonl"), "jsonl:1: needs the texts"),
        (("good.jsonl", "--questions", "no.jsonl"), "questions no.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(place, one_error, flags, message):
    write("half.jsonl", *(answer_of(i, "x", "y") for i in (1, 2)))
    given = flags if "--judge" in flags else (*flags, "--judge", "openai:m")
    assert evaluate(*given) == 2
    assert message in one_error()
    assert not (place / "out").exists()


def test_without_files_and_network_the_suite_says_where_to_get_them(place, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", place / "cache")
    assert main(["evaluate", "mt-bench", "good.jsonl", "--judge", "openai:m", "--output", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "questions: cannot be fetched" in line
    assert line.endswith("mt_bench/question.jsonl and name it with --questions")
    assert not (place / "out").exists()


def test_a_local_judge_is_loaded_once_for_all_models_and_modes(place, model, monkeypatch):
    loads = []
    load = local.load_sampler_model
    monkeypatch.setattr(local, "load_sampler_model", lambda source: loads.append(source) or load(source))
    flags = ("good.jsonl", "bad.jsonl", "--mode", "both", "--judge", f"transformers:{model}", "--judge_max_tokens", 3)
    assert evaluate(*flags, "--limit", 2) == 0
    assert loads == [model]
    result = read_results(place / "out")
    good, bad = result.models
    assert result.settings["judge"] == f"transformers:{Path(model).name}"
    assert good.metric("score_unparsable").value == 1.0, "an untrained model says nothing, which is shown"
    assert bad.metric("win_rate_unparsable").count == 2 * 2 * 2
    assert evaluate(*flags, "--limit", 2, "--overwrite") == 0
    assert loads == [model], "verdicts are kept"
