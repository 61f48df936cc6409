"""Scorers: rules, a reward model, a function, and what is refused."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from ropo.core.errors import UserError
from ropo.judging.scorers import FunctionScorer, load_scorer, scores_of
from ropo.lm.sampling import PromptRecord
from tests.tiny_reward import rewards, save_tiny_reward

TURNS = [{"role": "user", "content": "the cat"}]
PROMPT = PromptRecord({"prompt": "the cat", "wanted": "dog"}, TURNS, 4)


def function_scorer(function):
    return FunctionScorer("mine:score", function)


def test_rules_give_the_share_of_satisfied_instructions():
    rules = [{"name": "lower_case"}, {"name": "at_most_words", "parameters": {"limit": 2}}]
    prompt = PromptRecord({"prompt": "x", "instructions": rules}, TURNS, 1)
    assert scores_of(load_scorer("rules"), prompt, ["two words", "Two words", "Now three words"]) == [1.0, 0.5, 0.0]


def test_rules_without_instructions_name_the_line():
    with pytest.raises(UserError, match="prompt on line 4: the rule scorer needs"):
        scores_of(load_scorer("rules"), PROMPT, ["x"])


def test_function_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text(
        "def score(record, answers):\n    return [record['wanted'] in answer for answer in answers]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["somewhere"])
    scorer = load_scorer("my_scorer:score")
    assert scorer.name == "my_scorer:score"
    assert scores_of(scorer, PROMPT, ["a dog", "a cat"]) == [1.0, 0.0]


def test_reward_model_reads_the_conversation(tmp_path):
    folder = save_tiny_reward(tmp_path / "rm")
    answers = ["dog", "the dog ran on the mat", "no"]
    expected = rewards(folder, "the cat", answers)
    assert len(set(expected)) == 3
    scorer = load_scorer(f"reward:{folder}")
    assert scorer.name == "reward:rm", "a record names no place of this machine"
    assert scores_of(scorer, PROMPT, answers) == pytest.approx(expected, abs=1e-6)  # padding moves sums by rounding


def test_reward_model_with_two_outputs(tmp_path):
    with pytest.raises(UserError, match="must have 1 output, got 2"):
        load_scorer(f"reward:{save_tiny_reward(tmp_path, outputs=2)}")


def test_reward_model_without_its_scoring_layer(tmp_path):
    """Without a check, transformers fills the layer with random numbers."""
    folder = save_tiny_reward(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"prompt on line 4: reward model .*: its checkpoint has no score\.weight"):
        scores_of(load_scorer(f"reward:{folder}"), PROMPT, ["dog"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda record, answers: 1 / 0, "failed with ZeroDivisionError"),
        (lambda record, answers: [1.0], "must return 2 scores, one an answer, got 1"),
        (lambda record, answers: [1.0, float("nan")], "must return finite numbers"),
        (lambda record, answers: [1.0, "good"], "failed with ValueError"),
        (lambda record, answers: None, "failed with TypeError"),
    ],
)
def test_a_bad_scorer_is_one_line_with_the_prompt(function, message):
    with pytest.raises(UserError, match=f"^scorer mine:score, prompt on line 4: {message}"):
        scores_of(function_scorer(function), PROMPT, ["a", "b"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule", "must be `rules`"),
        ("reward:", "must be `rules`"),
        ("nowhere_at_all:f", "cannot be imported"),
        ("math:nothing", "cannot be imported"),
        ("math:pi", "must be a function"),
        ("reward:/no/such", "cannot be loaded"),
    ],
)
def test_bad_spec(spec, message):
    with pytest.raises(UserError, match=message):
        load_scorer(spec)
