"""`ropo pairs` as a user runs it, also killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ropo.cli.main import main
from ropo.instructions.counting import words
from tests.generation.tiny import save_tiny, write_prompts
from tests.tiny_reward import rewards, save_tiny_reward
from tests.tiny_tokenizer import WORDS

TEXTS = tuple(f"{first} {second}" for first in WORDS[:12] for second in WORDS[:5])
INSTRUCTIONS = [{"name": "at_most_words", "parameters": {"limit": 4}}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def arguments(model, prompts, output):
    return [
        *("pairs", "--model", model, "--prompts", str(prompts), "--output", str(output), "--samples", "4"),
        *("--max_new_tokens", "24", "--batch_size", "8", "--no-match_lengths"),
    ]


def test_pairs_and_summary(model, tmp_path, capsys):
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS, instructions=INSTRUCTIONS), tmp_path / "pairs.jsonl"
    assert main(arguments(model, prompts, output)) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) > 5
    for record in records:
        chosen, rejected = (len(words(record[name][0]["content"])) for name in ("chosen", "rejected"))
        assert 0 < chosen <= 4 < rejected or rejected == 0
    told = capsys.readouterr().out
    assert "at_most_words" in told
    assert f"{len(records)} pairs" in told


def test_a_reward_model_chooses_the_pairs(model, tmp_path):
    judge, output = save_tiny_reward(tmp_path / "rm"), tmp_path / "pairs.jsonl"
    prompts = write_prompts(tmp_path / "p.jsonl", TEXTS[:12])
    scorer = ("--scorer", f"reward:{judge}", "--threshold", "-100")
    assert main([*arguments(model, prompts, output), *scorer]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) > 3
    for record in records:
        asked = record["prompt"][-1]["content"]
        better, worse = rewards(judge, asked, [record[name][0]["content"] for name in ("chosen", "rejected")])
        assert better > worse


def test_killed_run_continues_without_sampling_twice_and_gives_the_same_file(model, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", TEXTS, instructions=INSTRUCTIONS)
    assert main(arguments(model, prompts, tmp_path / "whole.jsonl")) == 0
    output, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs.answers.jsonl"
    command = [sys.executable, "-m", "ropo", *arguments(model, prompts, output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    assert 3 <= kept.count(b"\n") < 31
    assert not output.exists()
    assert main(arguments(model, prompts, output)) == 0
    assert journal.read_bytes().startswith(kept)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--strategy", "worst"), "strategy must be one of"),
        (("--scorer", "nothing"), "scorer must be `rules`"),
        (("--scorer", "math:sqrt"), "failed with TypeError"),
        (("--margin", "-1"), "margin must be 0 or more"),
        (("--max_pairs", "0"), "max_pairs must be at least 1"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, capsys, flags, message):
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS[:4], instructions=INSTRUCTIONS), tmp_path / "o.jsonl"
    assert main([*arguments(model, prompts, output), *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()


def test_a_journal_of_another_run_is_refused(model, tmp_path, capsys):
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS[:4], instructions=INSTRUCTIONS), tmp_path / "o.jsonl"
    command = arguments(model, prompts, output)
    main(command)
    before = (tmp_path / "o.answers.jsonl").read_bytes()
    output.unlink(missing_ok=True)
    assert main([*command, "--seed", "9"]) == 2
    assert "was begun with seed 0, now 9" in capsys.readouterr().err
    assert (tmp_path / "o.answers.jsonl").read_bytes() == before
