"""`ropo evaluate preference` as a user runs it."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from ropo.cli.main import main
from ropo.evaluation.preference import measure
from ropo.evaluation.results import read_results
from ropo.lm.loading import load_policy
from ropo.lm.log_probs import pair_log_probs
from ropo.lm.tokens import tokenize_pair
from ropo.preferences import load_preferences
from tests.tiny.tokenizer import WORDS, tiny_tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    generator = np.random.default_rng(0)
    texts = [[" ".join(generator.choice(WORDS, size=generator.integers(1, 9))) for _ in range(3)] for _ in range(11)]
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    texts.append(["the cat", "cat sat", "dog ran"])  # answers of one length
    records = [dict(zip(("prompt", "chosen", "rejected"), each, strict=True)) for each in texts]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def evaluate(output, data, *arguments):
    return main(["evaluate", "preference", *map(str, arguments), "--data", data, "--output", str(output)])


def expected_margins(models, data):
    pairs, tokenizer = load_preferences(data).pairs.to_list(), tiny_tokenizer()
    tokens = [tokenize_pair(tokenizer, pair) for pair in pairs]
    tuned, base = (pair_log_probs(load_policy(models[name]).eval(), tokens) for name in ("tuned", "base"))
    gain = tuned - base
    return 0.1 * (gain[:, 0] - gain[:, 1])


def test_a_model_and_its_adapter(models, data, tmp_path, capsys):
    assert evaluate(tmp_path / "out", data, models["base"], models["tuned"], "--batch_size", 5) == 0
    result = read_results(tmp_path / "out")
    base, tuned = result.models
    margins = expected_margins(models, data)
    assert len(margins) == 12
    assert tuned.metric("margin").value == pytest.approx(float(margins.mean()), abs=1e-6)
    assert tuned.metric("accuracy").value == pytest.approx(float((margins > 0).double().mean()))
    assert tuned.metric("margin").low < tuned.metric("margin").value < tuned.metric("margin").high
    assert "accuracy" not in [metric.name for metric in base.metrics]
    assert base.changes == []
    change = tuned.change("chosen_log_prob")
    gained = tuned.metric("chosen_log_prob").value - base.metric("chosen_log_prob").value
    assert (change.value, change.reference) == (pytest.approx(gained), "base")
    assert tuned.metric("chosen_gain").value == pytest.approx(gained)
    assert tuned.change("prefers_chosen").test == "mcnemar"
    halves = [tuned.metric(f"accuracy_when_{half}").count for half in ("longer", "shorter")]
    assert min(halves) > 1
    assert sum(halves) < 12
    shown = capsys.readouterr().out
    assert "note: accuracy, margin and gains are measured from base" in shown
    assert f"note: {12 - sum(halves)} pairs have answers of one length" in shown
    assert "accuracy_when_shorter" in shown
    assert result.data["pairs"].counts["pairs"] == 12
    assert (result.settings["data"], result.settings["reference"]) == ("pairs.jsonl", "base")


def test_an_adapter_alone_is_measured_from_its_base(models, data, tmp_path):
    assert evaluate(tmp_path / "out", data, f"mine={models['tuned']}", "--max_pairs", 7) == 0
    (mine,) = read_results(tmp_path / "out").models
    assert (mine.name, mine.source) == ("mine", "tuned")
    assert mine.metric("margin").count == 7
    assert mine.metric("margin").value == pytest.approx(float(expected_margins(models, data)[:7].mean()), abs=1e-6)


def test_a_lone_model_has_no_margin_and_is_told_why(models, data, tmp_path, capsys):
    assert evaluate(tmp_path / "out", data, models["base"]) == 0
    (base,) = read_results(tmp_path / "out").models
    assert {metric.name for metric in base.metrics} >= {"prefers_chosen", "prefers_chosen_when_longer"}
    assert "accuracy" not in {metric.name for metric in base.metrics}
    assert "note: accuracy and margin need a model that differs from the reference" in capsys.readouterr().out


def test_a_killed_run_scores_nothing_twice(models, data, tmp_path, monkeypatch):
    score, batches = measure.pair_log_probs, []

    def count(model, pairs, limits):
        if len(batches) == 5:
            raise KeyboardInterrupt
        batches.append(len(pairs))
        return score(model, pairs, limits)

    monkeypatch.setattr(measure, "pair_log_probs", count)
    arguments = (models["base"], models["tuned"], "--batch_size", 6)
    assert evaluate(tmp_path / "out", data, *arguments) == 1
    assert batches == [3] * 5
    batches.clear()
    assert evaluate(tmp_path / "out", data, *arguments) == 0
    assert batches == [3] * 3
    assert evaluate(tmp_path / "out", data, *arguments, "--overwrite") == 0
    assert batches == [3] * 3
    monkeypatch.undo()
    assert evaluate(tmp_path / "whole", data, *arguments) == 0
    assert read_results(tmp_path / "out").models == read_results(tmp_path / "whole").models


def test_long_pairs_are_cut_and_counted(models, data, tmp_path, capsys):
    assert evaluate(tmp_path / "out", data, models["base"], "--max_length", 7) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "pairs cut to max_length 7, as in training" in shown
    assert "pairs left out, whose prompt fills max_length 7" in shown


def test_the_pairs_that_were_measured_are_counted_and_no_others(models, data, tmp_path, capsys):
    assert evaluate(tmp_path / "out", data, models["base"], "--max_pairs", 2) == 0
    assert re.search(r"^note: 2 of 1\d pairs, read as TRL", capsys.readouterr().out, flags=re.MULTILINE)
    result = read_results(tmp_path / "out")
    assert sum("read as" in note for note in result.notes) == 1
    assert {metric.count for metric in result.models[0].metrics if "when" not in metric.name} == {2}


def test_models_that_were_trained_otherwise_are_named_in_a_line(models, data, tmp_path, capsys):
    def trained(name, **options):
        run = shutil.copytree(models["tuned"], tmp_path / name)
        record = {"command": [], "config": {"trainer": options}, "status": "finished"}
        (run / "run.json").write_text(json.dumps(record))
        return str(run)

    first = trained("first", beta=0.3, max_length=9)
    same, other = trained("same", beta=0.3, max_length=9), trained("other", beta=0.5, max_length=12)
    assert evaluate(tmp_path / "alike", data, models["base"], first, same) == 0
    assert "was trained with" not in capsys.readouterr().out
    assert evaluate(tmp_path / "out", data, models["base"], first, other, same) == 0
    (note,) = (each for each in read_results(tmp_path / "out").notes if "was trained with" in each)
    assert note == (
        "other was trained with beta 0.5 and max_length 12; everything here is measured with beta 0.3 and max_length 9 "
        "(keep_start), which --beta and --max_length set"
    )
    assert evaluate(tmp_path / "named", data, first, "--beta", 0.1) == 0
    assert "first was trained with beta 0.3; everything" in " ".join(capsys.readouterr().out.split())


def test_prompts_go_through_the_template_as_in_training(models, data, tmp_path, capsys):
    """A run past the chat template is measured past it, unless told otherwise, and the line says which."""

    def margin(name, *arguments):
        assert evaluate(tmp_path / name, data, *arguments) == 0
        return read_results(tmp_path / name).models[-1].metric("margin").value

    runs = {}
    for name, plain in (("plain", True), ("usual", False)):
        runs[name] = shutil.copytree(models["tuned"], tmp_path / f"run-{name}")
        record = {"command": [], "config": {"plain_prompts": plain, "trainer": {}}, "status": "finished"}
        (runs[name] / "run.json").write_text(json.dumps(record))
    past, through = margin("past", runs["usual"], "--plain_prompts"), margin("through", runs["usual"])
    assert past != pytest.approx(through, rel=1e-3)
    assert margin("plain", runs["plain"]) == past
    assert read_results(tmp_path / "plain").settings["plain_prompts"] is True
    assert margin("told", runs["plain"], "--no-plain_prompts") == through
    capsys.readouterr()
    assert margin("both", runs["plain"], runs["usual"]) == past
    shown = " ".join(capsys.readouterr().out.split())
    assert "run-usual was trained with text prompts in the chat template; everything here is measured with" in shown
    assert "and text prompts past the chat template, which --beta and --max_length and --plain_prompts set" in shown
    diagnosed = ["diagnose", str(runs["plain"]), "--pairs", data, "--output", str(tmp_path / "diagnosis.json")]
    assert main(diagnosed) == 0
    pairs = json.loads((tmp_path / "diagnosis.json").read_text())["behaviour"]
    assert pairs["margin"] == pytest.approx(past, abs=1e-5)


def test_a_broken_model_is_told_in_a_line_and_nothing_of_it_is_kept(models, data, tmp_path, monkeypatch, one_error):
    with monkeypatch.context() as patch:
        patch.setattr(measure, "pair_log_probs", lambda model, pairs, limits: torch.full((len(pairs), 2), torch.nan))
        assert evaluate(tmp_path / "out", data, models["base"]) == 2
    assert "log-probs: must be finite, got NaN or infinity" in one_error()
    assert evaluate(tmp_path / "out", data, models["base"]) == 0


def test_counts_are_those_of_the_pairs_that_were_used(models, tmp_path):
    first, second, third = ({"prompt": "the cat", "chosen": "cat sat", "rejected": each} for each in WORDS[:3])
    tie = {"prompt": "the", "chosen": "cat", "rejected": "cat"}
    file = tmp_path / "pairs.jsonl"
    records = [first, tie, first, second, first, tie, tie, third, second]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    expected = {1: (0, 0), 2: (1, 1), 3: (3, 3), 4: (3, 3)}  # with the last one the file is read to its end
    for most, (duplicates, ties) in expected.items():
        assert evaluate(tmp_path / str(most), str(file), models["base"], "--max_pairs", most) == 0
        counts = read_results(tmp_path / str(most)).data["pairs"].counts
        assert counts == {"pairs": min(most, 3), "duplicates": duplicates, "ties": ties}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_pairs", "0"], "max_pairs: input should be greater than or equal to 1, got 0; change --max_pairs"),
        (["--beta", "0"], "beta: input should be greater than 0"),
        (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be 0 or more"),
        (["--reference", "nowhere/at-all"], "nowhere/at-all: is no folder here"),
        (["--betta", "1"], "unknown argument '--betta'; did you mean '--beta'?"),
        (["BAD"], "bad.jsonl:2"),
        (["AGAIN"], "have one name, 'base'"),
    ],
)
def test_bad_input(models, data, tmp_path, one_error, flags, message):
    if flags == ["BAD"]:
        flags, file = [], tmp_path / "bad.jsonl"
        file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n')
        data = str(file)
    if flags == ["AGAIN"]:
        flags = [models["base"]]
    assert evaluate(tmp_path / "out", data, models["base"], *flags) == 2
    assert message in one_error()
    assert not (tmp_path / "out" / "results.json").exists()


def test_an_earlier_result_stays_unless_told(models, data, tmp_path, capsys):
    (tmp_path / "results.json").write_text("mine")
    assert evaluate(tmp_path, data, models["base"]) == 2
    assert "has a results.json already; choose another folder or add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "mine"
    assert evaluate(tmp_path / "results.json", data, models["base"]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_the_merged_adapter_scores_as_the_adapter_does(models, data):
    tokens = [tokenize_pair(tiny_tokenizer(), pair) for pair in load_preferences(data).pairs.to_list()]
    policy = load_policy(models["tuned"]).eval()
    assert torch.allclose(pair_log_probs(policy, tokens), pair_log_probs(policy.merge_and_unload(), tokens), atol=1e-4)
