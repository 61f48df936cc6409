"""Numbers of a model whose positions end before `max_length`: of the tokens that it was given, in every command."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ropo.cli.main import main
from ropo.core import once
from ropo.evaluation.results import read_results
from tests.tiny.tokenizer import tiny_tokenizer
from tests.tiny.zoo import POSITIONS, make

ANSWER = "sat on the mat . ran fast on two mat yes no " * 4
PAIRS = [
    {"prompt": "the cat ", "chosen": ANSWER, "rejected": "ran ."},
    {"prompt": "a dog ", "chosen": "yes .", "rejected": "no " + ANSWER},
    {"prompt": "the cat sat on the mat . " * 4, "chosen": "yes .", "rejected": "no ."},  # fills the positions
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of 24 positions, an adapter on it, pairs and a text."""
    folder = tmp_path_factory.mktemp("positions")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    make("gpt2").save_pretrained(folder / "base")
    torch.manual_seed(0)
    adapter = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False, task_type="CAUSAL_LM")
    policy = get_peft_model(make("gpt2"), adapter)
    policy.peft_config["default"].base_model_name_or_path = str(folder / "base")
    policy.save_pretrained(folder / "adapter")
    for name in ("base", "adapter"):
        tokenizer.save_pretrained(folder / name)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (folder / "text.txt").write_text("the cat sat on the mat . " * 20)
    return folder


@pytest.fixture(scope="module")
def expected(place):
    """Log-probs of the two pairs that fit, summed in a plain loop, and the tokens of their answers: base, adapter."""
    tokenizer = tiny_tokenizer()
    base, under = (AutoModelForCausalLM.from_pretrained(place / "base").eval() for _ in range(2))
    sums, lengths = [], []
    for model in (base, PeftModel.from_pretrained(under, place / "adapter").eval()):
        for pair in PAIRS[:2]:
            prompt = tokenizer(pair["prompt"])["input_ids"]
            for answer in (pair["chosen"], pair["rejected"]):
                ids = (prompt + tokenizer(answer + "<eos>")["input_ids"])[:POSITIONS]
                with torch.no_grad():
                    log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
                scored = range(len(prompt), len(ids))
                sums.append(sum(float(log_probs[at - 1, ids[at]]) for at in scored))
                lengths.append(len(scored))
    assert max(lengths) == POSITIONS - 2
    return torch.tensor(sums, dtype=torch.float64).view(2, 2, 2), torch.tensor(lengths).view(2, 2, 2)[0]


@pytest.fixture(autouse=True)
def told_anew():
    once.say.cache_clear()


def test_diagnose(place, expected, tmp_path, capsys):
    flags = ["--pairs", place / "pairs.jsonl", "--output", tmp_path / "report.json"]
    assert main(["diagnose", *map(str, (place / "adapter", *flags))]) == 0
    (before, after), lengths = expected
    found = json.loads((tmp_path / "report.json").read_text())["behaviour"]
    changes = (after - before) / lengths
    assert torch.tensor(found["changes_per_token"]) == pytest.approx(changes.float(), abs=1e-4)
    said = capsys.readouterr().out
    assert f"1 pair left out, whose prompt fills max_length {POSITIONS}" in said
    assert f"2 pairs cut to max_length {POSITIONS}, as in training" in said


def test_preference(place, expected, tmp_path):
    flags = ["--data", place / "pairs.jsonl", "--output", tmp_path]
    assert main(["evaluate", "preference", *map(str, (place / "base", place / "adapter", *flags))]) == 0
    sums, lengths = expected
    result = read_results(tmp_path)
    for model, log_probs in zip(result.models, sums, strict=True):
        per_token = log_probs / lengths
        share = float((per_token[:, 0] > per_token[:, 1]).double().mean())
        assert model.metric("prefers_chosen_per_token").value == share
        assert model.metric("chosen_log_prob").value == pytest.approx(float(log_probs[:, 0].mean()), abs=1e-3)
    assert result.settings["max_length"] == POSITIONS
    assert result.data["pairs"].counts["pairs"] == 2


def test_strength(place, expected, tmp_path):
    flags = ["--data", place / "pairs.jsonl", "--text", place / "text.txt", "--window", 16, "--output", tmp_path]
    assert main(["evaluate", "strength", *map(str, (place / "adapter", *flags, "--strengths", 1))]) == 0
    (model,) = read_results(tmp_path).models
    divergence, tokens = 0.0, 0
    base = AutoModelForCausalLM.from_pretrained(place / "base").eval()
    policy = PeftModel.from_pretrained(base, place / "adapter").eval()
    for pair in PAIRS[:2]:
        prompt = tiny_tokenizer()(pair["prompt"])["input_ids"]
        for answer in (pair["chosen"], pair["rejected"]):
            ids = torch.tensor([(prompt + tiny_tokenizer()(answer + "<eos>")["input_ids"])[:POSITIONS]])
            with torch.no_grad():
                p = policy(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                with policy.disable_adapter():
                    q = base(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            divergence += float((p.exp() * (p - q)).sum())
            tokens += len(p)
    assert model.metric("kl").value == pytest.approx(divergence / tokens, rel=1e-4)
