"""Scorers: rules, a reward model, a function, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ropo.core.errors import UserError
from ropo.judging.judge import Duel, VerdictStore
from ropo.judging.options import JudgeOptions, load_judge
from ropo.judging.scores import function_judge, reward_judge
from ropo.lm.sampling import PromptRecord
from tests.tiny.reward import rewards, save_tiny_reward

TURNS = [{"role": "user", "content": "the cat"}]
PROMPT = PromptRecord({"prompt": "the cat", "wanted": "dog"}, TURNS, 4)


def load(spec, folder=Path("unused")):
    return load_judge(JudgeOptions(judge=spec), folder, 1, 7, "scorer")


def scores_of(judge, prompt, answers):
    return [verdict.value for verdict in judge.grade(prompt, answers)]


def test_rules_give_the_share_of_satisfied_instructions():
    rules = [{"name": "lower_case"}, {"name": "at_most_words", "parameters": {"limit": 2}}]
    prompt = PromptRecord({"prompt": "x", "instructions": rules}, TURNS, 1)
    assert scores_of(load("rules"), prompt, ["two words", "Two words", "Now three words"]) == [1.0, 0.5, 0.0]


def test_rules_without_instructions_name_the_line():
    with pytest.raises(UserError, match="prompt on line 4: the rule scorer needs"):
        scores_of(load("rules"), PROMPT, ["x"])


@pytest.mark.parametrize("parameters", [{"limit": "2"}, {"limit": True}, None, 5])
def test_rules_are_checked_without_an_answer(parameters):
    rules = [{"name": "at_most_words", "parameters": parameters}]
    with pytest.raises(UserError, match=r"prompt on line 1: instruction at_most_words: .*limit.*; mend"):
        load("rules").check(PromptRecord({"prompt": "x", "instructions": rules}, TURNS, 1))


def test_function_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text(
        "def score(record, answers):\n    return [record['wanted'] in answer for answer in answers]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["somewhere"])
    scorer = load("my_scorer:score")
    assert scorer.name == "my_scorer:score"
    assert scores_of(scorer, PROMPT, ["a dog", "a cat"]) == [1.0, 0.0]


def test_reward_model_reads_the_conversation(tmp_path):
    folder = save_tiny_reward(tmp_path / "rm")
    answers = ["dog", "the dog ran on the mat", "no"]
    expected = rewards(folder, "the cat", answers)
    assert len(set(expected)) == 3
    scorer = load(f"reward:{folder}")
    assert scorer.name == "reward:rm", "a record names no place of this machine"
    assert scores_of(scorer, PROMPT, answers) == pytest.approx(expected, abs=1e-6)  # padding moves sums by rounding


def test_reward_model_with_two_outputs(tmp_path):
    with pytest.raises(UserError, match="must have 1 output, got 2"):
        load(f"reward:{save_tiny_reward(tmp_path, outputs=2)}")


def test_reward_model_without_its_scoring_layer(tmp_path):
    """Without a check, transformers fills the layer with random numbers."""
    folder = save_tiny_reward(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"prompt on line 4: reward model .*: its checkpoint has no score\.weight"):
        scores_of(load(f"reward:{folder}"), PROMPT, ["dog"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda record, answers: 1 / 0, "failed with ZeroDivisionError"),
        (lambda record, answers: [1.0], "must return 2 scores, one per answer, got 1"),
        (lambda record, answers: [1.0, float("nan")], "must return finite numbers"),
        (lambda record, answers: [1.0, "good"], "failed with ValueError"),
        (lambda record, answers: None, "failed with TypeError"),
    ],
)
def test_a_bad_scorer_is_one_line_with_the_prompt(function, message):
    with pytest.raises(UserError, match=f"^scorer mine:score, prompt on line 4: {message}"):
        scores_of(function_judge("mine:score", function), PROMPT, ["a", "b"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule", "scorer must be `rules`.*change --scorer"),
        ("reward:", "scorer must be `rules`.*change --scorer"),
        ("nowhere_at_all:f", "cannot be imported"),
        ("math:nothing", "cannot be imported"),
        ("math:pi", "must be a function"),
        ("reward:/no/such", "cannot be loaded"),
    ],
)
def test_bad_spec(spec, message):
    with pytest.raises(UserError, match=message):
        load(spec)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_reward(tmp_path_factory.mktemp("rm"))


def compare(model, folder, *duels):
    asked = [Duel(PromptRecord({}, [{"role": "user", "content": text}], 1), a, b) for text, a, b in duels]
    found = reward_judge(model, VerdictStore(folder))
    verdicts = found.prefer(asked, lambda duels: None)
    return [each.value for each in verdicts], found.meter.calls, found.meter.kept


@pytest.mark.parametrize(
    "other", [("a dog", "yes", "no"), ("the cat", "no", "no"), ("the cat", "yes", "yes"), ("the cat", "no", "yes")]
)
def test_another_prompt_or_answer_is_another_verdict(tmp_path, model, other):
    verdict, calls, kept = compare(model, tmp_path, ("the cat", "yes", "no"))
    assert (calls, kept) == (1, 0)
    assert compare(model, tmp_path, ("the cat", "yes", "no")) == (verdict, 0, 1)
    assert compare(model, tmp_path, other)[1:] == (1, 0)
