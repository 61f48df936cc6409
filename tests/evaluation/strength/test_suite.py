"""`ropo evaluate strength` as a user runs it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from peft import HRAConfig, LoraConfig, get_peft_model

from ropo import RopoConfig
from ropo.cli.main import main
from ropo.evaluation.results import Metric, ModelResult, read_results
from ropo.evaluation.strength import scores
from ropo.evaluation.strength.measure import choose
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_model, load_policy
from ropo.lm.log_probs import answer_distributions, pair_log_probs, text_losses
from ropo.lm.tokens import text_windows, tokenize_pair
from ropo.preferences import load_preferences
from tests.tiny.sampled import save_tiny, tiny_model
from tests.tiny.tokenizer import WORDS, tiny_tokenizer

CONFIGS = {
    "ropo": lambda: RopoConfig(init_weights=False, task_type="CAUSAL_LM"),
    "lora": lambda: LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    "hra": lambda: HRAConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    base = save_tiny(folder / "base")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        policy = get_peft_model(tiny_model(), config())
        policy.peft_config["default"].base_model_name_or_path = base
        policy.save_pretrained(folder / name)
    return {"base": base, **{name: str(folder / name) for name in CONFIGS}}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Eight pairs, and a text of five windows of 16 tokens and a shorter one."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    texts = [[" ".join(generator.choice(WORDS, size=generator.integers(1, 9))) for _ in range(3)] for _ in range(8)]
    records = [dict(zip(("prompt", "chosen", "rejected"), each, strict=True)) for each in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "text.txt").write_text(" ".join(generator.choice(WORDS, size=87)))
    return ["--data", str(folder / "pairs.jsonl"), "--text", str(folder / "text.txt"), "--window", "16"]


def evaluate(output, *arguments) -> int:
    return main(["evaluate", "strength", *map(str, arguments), "--output", str(output)])


@pytest.mark.parametrize("method", ["ropo", "lora"])
def test_every_number_is_that_of_the_adapter_at_its_strength(models, files, tmp_path, method):
    assert evaluate(tmp_path / "out", models[method], *files, "--strengths", 1, 0, 0.5, 1.5, "--batch_size", 6) == 0
    found = read_results(tmp_path / "out")
    assert [model.name for model in found.models] == [f"{method}@{each}" for each in ("0", "0.5", "1", "1.5")]
    tokenizer = tiny_tokenizer()
    pairs = [tokenize_pair(tokenizer, pair) for pair in load_preferences(files[1]).pairs.to_list()]
    windows = text_windows(tokenizer, Path(files[3]).read_text(), 16, 64)[:5]
    base = load_model(models["base"]).eval()
    before, losses = pair_log_probs(base, pairs), text_losses(base, windows)
    seen = set()
    for model in found.models:
        strength = model.details["strength"]
        policy = load_policy(f"{models[method]}@{strength}").eval()
        gain = pair_log_probs(policy, pairs) - before
        margin = 0.1 * (gain[:, 0] - gain[:, 1])
        expected = {
            "chosen_gain": gain[:, 0].mean(),
            "rejected_gain": gain[:, 1].mean(),
            "margin": margin.mean(),
            "loss": -torch.nn.functional.logsigmoid(margin).mean(),
            "accuracy": (margin > 0).double().mean(),
            "kl": divergence_by_hand(policy, base, pairs),
            "forgetting": np.mean(text_losses(policy, windows)) - np.mean(losses),
            "text_loss": np.mean(text_losses(policy, windows)),
        }
        assert {metric.name: metric.value for metric in model.metrics} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, abs=2e-6
        )
        assert [model.metric(name).count for name in ("margin", "kl", "forgetting")] == [8, 8, 5]
        assert model.fingerprint == fingerprint_source(f"{models[method]}@{strength}")
        seen.add(round(model.metric("kl").value, 5))
    assert len(seen) == 4
    zero = found.models[0]
    assert [zero.metric(name).value for name in ("kl", "margin", "forgetting", "chosen_gain")] == [0.0] * 4
    assert zero.metric("loss").value == pytest.approx(math.log(2))


def divergence_by_hand(policy, base, pairs) -> float:
    """KL(policy || base) at each answer token, one token after the other, from plain logits in float64."""
    total, tokens = 0.0, 0
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *answer]])
            with torch.no_grad():
                ours, theirs = (model(ids).logits[0].double().log_softmax(-1) for model in (policy, base))
            for place in range(len(pair.prompt) - 1, ids.shape[1] - 1):
                total += float((ours[place].exp() * (ours[place] - theirs[place])).sum())
                tokens += 1
    return total / tokens


def test_a_token_without_probability_adds_nothing():
    rows, base = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log(), torch.tensor([[0.25, 0.5, 0.25]] * 2).log()
    assert scores.divergence(rows, base) == pytest.approx(0.5 * math.log(2) + math.log(4))
    base[:, 2] = -math.inf
    assert scores.divergence(rows, base) == pytest.approx(0.5 * math.log(2) + math.log(4))


def test_one_pass_for_each_strength_and_none_for_what_is_kept(models, files, tmp_path, monkeypatch):
    passes = []

    def count(model, prompts, answers):
        passes.append(len(answers))
        return answer_distributions(model, prompts, answers)

    monkeypatch.setattr(scores, "answer_distributions", count)
    arguments = (models["ropo"], *files, "--strengths", 0, 0.5, 1, "--batch_size", 4)
    assert evaluate(tmp_path / "out", *arguments) == 0
    assert sum(passes) == 3 * 16  # the base, which strength 0 is, and two strengths, over 16 answers
    assert evaluate(tmp_path / "out", *arguments, "--overwrite") == 0
    assert sum(passes) == 3 * 16
    first = read_results(tmp_path / "out").models
    passes.clear()
    assert evaluate(tmp_path / "out", *arguments[:-3], 2, "--batch_size", 4, "--overwrite") == 0
    assert sum(passes) == 3 * 16
    again = read_results(tmp_path / "out").models
    assert again[:2] == first[:2]
    assert again[2] != first[2]


def test_what_is_shown_and_drawn(models, files, tmp_path, capsys):
    arguments = (models["ropo"], f"other<={models['lora']}", *files, "--strengths", 0, 0.5, 1)
    assert evaluate(tmp_path / "out", *arguments, "--forgetting_budget", 5) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("ropo@0", "ropo@0.5", "other<@1", "forgetting", "kl", "margin"):
        assert name in shown
    assert "kl is KL(adapter || base) at the tokens of these answers, exact over the vocabulary" in shown
    assert shown.count("of the strengths that forget at most 5 nats per token") == 2
    assert "chosen on these pairs and this text, so measure it on others" in shown
    picture = ElementTree.parse(tmp_path / "out" / "strength.svg").getroot()
    tag = "{http://www.w3.org/2000/svg}"
    lines = picture.findall(f".//{tag}polyline")
    assert len(lines) == 3 * 2
    assert all(len(line.attrib["points"].split()) == 3 for line in lines)
    texts = [each.text for each in picture.iter(f"{tag}text")]
    assert {"ropo", "other<", "DPO margin, nats", "strength"} <= set(texts)
    chosen = [model for model in read_results(tmp_path / "out").models if model.details.get("chosen")]
    assert len(chosen) == 2


def result(strength: float, loss: float, forgetting: float) -> ModelResult:
    values = {"loss": loss, "margin": 1.0, "forgetting": forgetting}
    metrics = [Metric(name=name, value=value, count=1, meaning="") for name, value in values.items()]
    return ModelResult(
        name=f"a@{strength:g}", source="a", fingerprint=None, metrics=metrics, details={"strength": strength}
    )


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0.001, "a: of the strengths that forget at most 0.001 nats per token, 0 gains most: DPO loss 0.69"),
        (0.01, "a: of the strengths that forget at most 0.01 nats per token, 0.5 gains most: DPO loss 0.65"),
        (0.02, "a: of the strengths that forget at most 0.02 nats per token, 1 gains most: DPO loss 0.63"),
        (1.0, "a: of the strengths that forget at most 1 nats per token, 1 gains most: DPO loss 0.63"),
    ],
)
def test_the_strength_within_a_budget(budget, expected):
    """Neither the weakest, nor the strongest that is within it: beyond 1 the loss rises again."""
    results = [result(0, 0.69, 0.0), result(0.5, 0.65, 0.01), result(1, 0.63, 0.02), result(1.5, 0.66, 0.05)]
    assert choose("a", results, budget).startswith(expected)
    assert [each.details.get("chosen", False) for each in results].count(True) == 1
    assert choose("a", results[1:], 0.001) == (
        "a: every strength forgets more than 0.001 nats per token; try weaker ones (--strengths)"
    )


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("ropo", ["--strengths", "0", "2.5"], "strength: must be a number from 0 (the base model) to 2, got '2.5'"),
        ("ropo", ["--strengths", "-1"], "strength: must be a number from 0 (the base model) to 2, got '-1'"),
        ("ropo", ["--strengths", "nan"], "got 'nan'"),
        ("ropo", ["--strengths", "half"], "got 'half'"),
        ("ropo", ["--forgetting_budget", "0"], "forgetting_budget: input should be greater than 0, got 0.0; change"),
        ("ropo", ["--forgetting_budget", "nan"], "forgetting_budget: input should be"),
        ("ropo", ["--forgetting_budget", "inf"], "forgetting_budget: input should be a finite number"),
        ("ropo", ["--text", "none.txt"], "text none.txt: no such file"),
        ("base", [], "base: is no PEFT adapter, and only an adapter has a strength"),
        ("ropo@0.5", [], "ropo@0.5: names one strength, and this suite turns it; use --strengths"),
        ("hra", [], "hra: strength: PEFT scales no HRA adapter"),
    ],
)
def test_bad_input(models, files, tmp_path, capsys, model, flags, message):
    name, at, strength = model.partition("@")
    assert evaluate(tmp_path / "out", models[name] + at + strength, *files, *flags) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error:" in line]
    assert message in line
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_flags_of_pairs_and_text(models, files, tmp_path, capsys):
    def measured(name, *flags) -> ModelResult:
        assert evaluate(tmp_path / name, models["ropo"], *files, "--strengths", "0.5", *flags) == 0
        (found,) = read_results(tmp_path / name).models
        return found

    plain = measured("plain", "--beta", 0.1, "--split", "test", "--seed", 3)
    assert plain.metric("margin").count == 8
    assert measured("beta", "--beta", 0.5).metric("margin").value == pytest.approx(5 * plain.metric("margin").value)
    few = measured("few", "--max_pairs", 3, "--max_windows", 2)
    assert [few.metric(name).count for name in ("margin", "kl", "forgetting")] == [3, 3, 2]
    past_template = measured("past", "--plain_prompts")
    assert past_template.metric("kl").value != pytest.approx(plain.metric("kl").value, rel=1e-3)
    assert past_template.metric("forgetting") == measured("default").metric("forgetting")
    capsys.readouterr()
    cut = measured("cut", "--max_length", 8)
    assert read_results(tmp_path / "cut").settings["max_length"] == 8
    assert cut.metric("chosen_gain").value != pytest.approx(plain.metric("chosen_gain").value, rel=1e-3)
    assert "pairs cut to max_length 8, as in training" in " ".join(capsys.readouterr().out.split())


def test_beta_and_limits_are_those_of_training(models, files, tmp_path):
    run = shutil.copytree(models["ropo"], tmp_path / "run")
    record = {"command": [], "config": {"trainer": {"beta": 0.3, "max_length": 9}}, "status": "finished"}
    (run / "run.json").write_text(json.dumps(record))
    assert evaluate(tmp_path / "out", run, *files, "--strengths", "1") == 0
    settings = read_results(tmp_path / "out").settings
    assert (settings["beta"], settings["max_length"]) == (0.3, 9)
