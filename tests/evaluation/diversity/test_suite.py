"""`ropo evaluate diversity` as a user runs it."""

from __future__ import annotations

import pytest

from ropo.cli.main import main
from ropo.diagnostics.answers import distinct, words
from ropo.evaluation.contestants import Contestant, answer_prompts
from ropo.evaluation.results import read_results
from ropo.lm.sampling import SamplingSettings, read_prompts, sampler
from tests.tiny.sampled import write_prompts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "p.jsonl")


def evaluate(output, prompts, *arguments) -> int:
    flags = [
        "--prompts",
        prompts,
        "--output",
        output,
        "--samples",
        3,
        "--max_new_tokens",
        6,
        "--embedding_model",
        "none",
    ]
    return main(["evaluate", "diversity", *map(str, arguments), *map(str, flags)])


def test_two_models(models, prompts, tmp_path, capsys):
    assert evaluate(tmp_path, prompts, models["base"], models["tuned"], "--seed", 1) == 0
    result = read_results(tmp_path)
    base, tuned = result.models
    sampling = SamplingSettings(samples=3, max_new_tokens=6, seed=1)
    groups = answer_prompts(Contestant("x", models["tuned"]), read_prompts(prompts), sampling, 32, tmp_path / "cache")
    expected = [distinct([words(answer.text) for answer in group], 2) for group in groups]
    assert len(groups) == tuned.metric("tokens").count == 7
    assert tuned.metric("distinct_2").value == pytest.approx(sum(expected) / 7)
    first = distinct([words(group[0].text) for group in groups], 1)
    assert tuned.metric("distinct_1_across").value == pytest.approx(first)
    assert tuned.metric("tokens").value == pytest.approx(sum(len(a.tokens) for group in groups for a in group) / 21)
    change = tuned.change("distinct_1_across")
    assert change.value == pytest.approx(first - base.metric("distinct_1_across").value)
    assert change.low < change.value < change.high
    assert (result.seed, result.data["prompts"].counts) == (1, {"prompts": 7})
    assert (result.settings["prompts"], result.settings["embedding_model"]) == ("p.jsonl", "none")
    shown = capsys.readouterr().out
    assert "self_bleu_across" in shown
    assert "note: expectation-adjusted distinct counts tokens of base's tokenizer" in shown


def test_equal_models_do_not_differ(models, prompts, tmp_path):
    assert evaluate(tmp_path, prompts, models["base"], f"copy={models['base']}") == 0
    _, copy = read_results(tmp_path).models
    assert len(copy.changes) > 10
    assert {change.value for change in copy.changes} == {0.0}


def test_a_metric_without_a_prompt_is_left_out_and_named(models, prompts, tmp_path, capsys):
    assert evaluate(tmp_path, prompts, models["base"], "--max_prompts", 1) == 0  # no other first answer to compare with
    (base,) = read_results(tmp_path).models
    assert {metric.count for metric in base.metrics} == {1}
    assert "self_bleu_across" not in {metric.name for metric in base.metrics}
    assert "self_bleu_across: left out, as some model's answers" in capsys.readouterr().out


def test_kept_answers_are_not_sampled_again(models, prompts, tmp_path, monkeypatch):
    assert evaluate(tmp_path / "out", prompts, models["base"]) == 0
    monkeypatch.setattr(sampler, "load_sampler_model", None)  # a call would fail
    assert evaluate(tmp_path / "out", prompts, models["base"], "--overwrite") == 0
    assert evaluate(tmp_path / "other", prompts, models["base"], "--cache", tmp_path / "out" / "cache") == 0
    assert read_results(tmp_path / "out").models == read_results(tmp_path / "other").models


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts", "nowhere.jsonl"], "prompts nowhere.jsonl: no such file"),
        (["--prompts", "BAD"], "bad.jsonl:2: prompt must be text"),
        (["--samples", "1"], "samples: input should be greater than or equal to 2, got 1"),
        (["--temperature", "0"], "temperature: input should be greater than 0"),
        (["--top_p", "1.5"], "top_p: input should be less than or equal to 1"),
        (["--embedding_model", "org/nothing"], "embedding model org/nothing: cannot be loaded"),
    ],
)
def test_bad_input(models, prompts, tmp_path, one_error, flags, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "the cat"}\n{"prompt": 3}\n')
    common = ["evaluate", "diversity", models["base"], "--output", str(tmp_path / "out"), "--prompts", str(prompts)]
    assert main([*common, *(str(bad) if flag == "BAD" else flag for flag in flags)]) == 2
    assert message in one_error()
    assert not (tmp_path / "out" / "results.json").exists()
