"""`ropo pairs` as a user runs it, also killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ropo.cli.main import main
from ropo.instructions.checkers import ifeval_words
from tests.evaluation.fake_endpoint import serving
from tests.tiny.reward import rewards, save_tiny_reward
from tests.tiny.sampled import save_tiny, write_prompts
from tests.tiny.tokenizer import WORDS

TEXTS = tuple(f"{first} {second}" for first in WORDS[:12] for second in WORDS[:5])
INSTRUCTIONS = [{"name": "at_most_words", "parameters": {"limit": 4}}]


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
        chosen, rejected = (len(ifeval_words(record[name][0]["content"])) for name in ("chosen", "rejected"))
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


def test_a_chat_model_grades_and_is_asked_once_across_a_fault_and_a_rerun(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS[:12]), tmp_path / "pairs.jsonl"
    scorer = ("--scorer", "openai:judge", "--judge_key_variable", "JUDGE_KEY", "--judge_attempts", "1")

    given: list[str] = []

    def grade(body):
        given.append(json.dumps(body["messages"]))
        answer = re.search(r"<answer>\n(.*)\n</answer>", body["messages"][-1]["content"], re.DOTALL)[1]
        return "no idea" if "slow" in answer else f"Grade: [[{min(10, 1 + len(ifeval_words(answer)))}]]"

    with serving(answer=grade) as server:
        server.faults = lambda text, before: "500" if len(given) >= 9 else None
        assert main([*arguments(model, prompts, output), *scorer, "--judge_url", server.url]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "the judge gave no reply to any of" in told
        assert not output.exists()
        assert 9 <= len(given) < 16  # those in flight when the server broke
        server.faults = lambda text, before: None
        assert main([*arguments(model, prompts, output), *scorer, "--judge_url", server.url]) == 0
        assert len(set(given)) == len(given) > 16, "no grade is asked for twice"
    told = capsys.readouterr().out
    assert "without a grade (unparsable verdict)" in told
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) > 3
    for record in records:
        chosen, rejected = (record[name][0]["content"] for name in ("chosen", "rejected"))
        assert record["score_chosen"] == min(10, 1 + len(ifeval_words(chosen))) > record["score_rejected"]
        assert "slow" not in chosen + rejected
        assert record["scorer"] == "openai:judge"
    assert all("secret-key" not in file.read_text() for file in tmp_path.rglob("*.json*"))


def test_grades_in_other_words_are_read_and_missing_ones_are_said_loudly(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS[:12]), tmp_path / "pairs.jsonl"

    def grade(body):
        answer = re.search(r"<answer>\n(.*)\n</answer>", body["messages"][-1]["content"], re.DOTALL)[1]
        if "slow" in answer:
            return {"message": {"content": "<think>Grade: [[10]]"}, "finish_reason": "length"}
        return f"<think>Grade: [[10]]</think>**Rating:** {min(10, 1 + len(ifeval_words(answer)))}/10"

    with serving(answer=grade) as server:
        assert main([*arguments(model, prompts, output), "--scorer", "openai:j", "--judge_url", server.url]) == 0
    told = capsys.readouterr()
    loud = r"^WARNING: \d+ of \d+ answers have no grade \(\d+ cut before its verdict\)"
    assert re.search(loud, told.err, re.MULTILINE)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) > 3
    for record in records:
        chosen, rejected = (record[name][0]["content"] for name in ("chosen", "rejected"))
        assert record["score_chosen"] == min(10, 1 + len(ifeval_words(chosen))) > record["score_rejected"]
        assert "slow" not in chosen + rejected


def test_killed_run_continues_without_sampling_twice_and_gives_the_same_file(model, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", TEXTS, instructions=INSTRUCTIONS)
    assert main(arguments(model, prompts, tmp_path / "whole.jsonl")) == 0
    output, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs.answers.jsonl"
    command = [sys.executable, "-m", "ropo", *arguments(model, prompts, output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 300  # a busy machine takes minutes to start one
    try:
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
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
        (("--scorer", "openai:judge", "--judge_key_variable", "NO_SUCH_KEY"), "NO_SUCH_KEY holds no key"),
        (("--scorer", "transformers:nowhere"), "nowhere"),
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


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('out of luck')", "failed with RuntimeError: out of luck"),
        ("return [float('nan')] * len(answers)", "must return finite numbers, got [nan"),
        ("return [1.0]", "must return 4 scores, one per answer, got 1"),
    ],
)
def test_a_scorer_that_fails_half_way_loses_no_answer(model, tmp_path, capsys, monkeypatch, body, message):
    prompts, output = write_prompts(tmp_path / "p.jsonl", TEXTS[:12]), tmp_path / "o.jsonl"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "half_way", raising=False)
    (tmp_path / "half_way.py").write_text(
        "seen = []\n"
        "def score(record, answers):\n"
        "    seen.append(record)\n"
        "    if len(seen) > 6:\n"
        f"        {body}\n"
        "    return [float(len(answer)) for answer in answers]\n"
    )
    command = [*arguments(model, prompts, output), "--scorer", "half_way:score"]
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ropo pairs: error: scorer half_way:score, prompt on line ")
    assert message in last
    assert not output.exists()
    kept = (tmp_path / "o.answers.jsonl").read_bytes()
    assert kept.count(b"\n") == 1 + 4, "two prompts a batch: the seventh is in the fourth"
    sys.modules["half_way"].score = lambda record, answers: [float(len(answer)) for answer in answers]
    assert main(command) == 0
    assert (tmp_path / "o.answers.jsonl").read_bytes().startswith(kept)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no record"),
        ('{"prompt": "a cat"}\n{"prompt": 3}\n', ":2: prompt must be text"),
        ("{\n", ":1: is not"),
    ],
)
def test_a_bad_prompts_file_is_one_line(model, tmp_path, capsys, content, message):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(content)
    assert main(arguments(model, prompts, tmp_path / "o.jsonl")) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.jsonl"]


def test_a_model_without_a_chat_template_is_one_line(tmp_path, capsys):
    folder = save_tiny(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    prompts = write_prompts(tmp_path / "p.jsonl", TEXTS[:4], instructions=INSTRUCTIONS)
    assert main(arguments(folder, prompts, tmp_path / "o.jsonl")) == 2
    assert "its tokenizer has no chat template" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("o.*"))
