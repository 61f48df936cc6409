"""Models beyond plain attention, with few positions or few embeddings, through the commands."""

from __future__ import annotations

import json

import pytest

from ropo.cli.main import main
from ropo.core import once
from tests.tiny.tokenizer import tiny_tokenizer
from tests.tiny.zoo import POSITIONS, make

PAIRS = [
    {"prompt": "the cat", "chosen": "sat on the mat .", "rejected": "ran"},
    {"prompt": "one dog", "chosen": "yes", "rejected": "no no no " + "fast " * 30},
    {"prompt": "two", "chosen": "the dog ran fast", "rejected": "slow"},
    {"prompt": "is the cat slow on the mat", "chosen": "no", "rejected": "yes yes"},
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Return a function that saves a model of the zoo and runs a command on it: its status and standard error."""
    monkeypatch.chdir(tmp_path)
    once.say.cache_clear()
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    rule = {"prompt": "the cat", "instructions": [{"name": "at_most_words", "parameters": {"limit": 4}}]}
    (tmp_path / "rules.jsonl").write_text(json.dumps(rule) + "\n")
    (tmp_path / "text.txt").write_text("the cat sat on the mat . " * 40)

    def execute(model, command):
        model.save_pretrained("model")
        tiny_tokenizer().save_pretrained("model")
        capsys.readouterr()
        caplog.clear()
        status = main(command.split())
        return status, caplog.text + capsys.readouterr().err  # pytest takes the log before standard error has it

    return execute


TRAIN = (
    "train --model model --data pairs.jsonl --eval_data pairs.jsonl --output out --max_steps 2 --use_cpu "
    "--monitor_text text.txt --method lora --target_modules {targets}"
)


@pytest.mark.parametrize(
    ("name", "targets"), [("lfm2", "q_proj"), ("qwen3_5", "q_proj"), ("falcon_h1", "q_proj"), ("mamba", "in_proj")]
)
def test_a_model_with_a_state_trains_samples_and_is_measured(run, name, targets):
    status, error = run(make(name), TRAIN.format(targets=targets))
    assert status == 0
    assert "training padded" in error
    assert "cannot be packed" in error
    assert run(make(name), "generate out --prompts pairs.jsonl --output g.jsonl --max_new_tokens 6")[0] == 0
    with open("g.jsonl") as file:
        assert [len(json.loads(line)["outputs"]) for line in file] == [1] * len(PAIRS)
    assert run(make(name), "evaluate preference model out --data pairs.jsonl --output evaluated")[0] == 0


def test_few_positions_are_not_overrun(run):
    status, error = run(make("gpt2"), TRAIN.partition(" --method")[0])
    assert status == 0
    assert f"has {POSITIONS} positions: sequences are cut at {POSITIONS} tokens, not at 1024" in error
    status, error = run(make("gpt2"), "generate out --prompts pairs.jsonl --output g.jsonl")
    assert status == 0
    assert f"has {POSITIONS} positions: 4 of 4 prompts leave fewer than 256" in error
    assert run(make("gpt2"), "diagnose out --pairs pairs.jsonl --text text.txt --output d.json")[0] == 0
    assert run(make("gpt2"), "evaluate preference model out --data pairs.jsonl --output evaluated")[0] == 0
    knowledge = "evaluate knowledge model --text text.txt --window 30 --output known"
    assert run(make("gpt2"), knowledge)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        TRAIN.format(targets="q_proj"),
        "generate model --prompts pairs.jsonl --output g.jsonl",
        "diagnose model --reference model --pairs pairs.jsonl --output d.json",
        "evaluate preference model model-2=model --data pairs.jsonl --output evaluated",
        "pairs --model model --prompts rules.jsonl --output p.jsonl",
    ],
)
def test_a_tokenizer_with_more_tokens_than_embeddings_is_one_line(run, command):
    model = make("llama")
    model.resize_token_embeddings(8)
    status, error = run(model, command)
    assert status == 2
    assert "has embeddings for 8 tokens, and token " in error.strip().splitlines()[-1]


def test_a_hub_that_is_not_there_is_one_line(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for command in (
        "train --model org/name --data pairs.jsonl --output out --use_cpu",
        "train --model model --data org/name --output out --use_cpu",
        "generate org/name --prompts pairs.jsonl --output g.jsonl",
        "pairs --model org/name --prompts rules.jsonl --output p.jsonl",
        "diagnose org/name --output d.json",
        "evaluate preference org/name --data pairs.jsonl --output evaluated",
        "evaluate preference model --data org/name --output evaluated",
    ):
        status, error = run(make("llama"), command)
        assert status == 2, command
        assert "org/name: is n" in error.strip().splitlines()[-1], command
