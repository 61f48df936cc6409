"""A run that is killed while its judge is being asked, and given again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from ropo.cli.main import main
from ropo.evaluation.results import read_results
from tests.evaluation.fake_endpoint import serving

KEY = "sk-secret-4711"
COUNT = 12
ANSWERED = 9  # of the questions, before the server falls silent and the run is killed


def write_alpaca_eval(folder):
    for name in ("reference", "mine"):
        records = [{"instruction": f"request {i}", "output": f"{name} {i}"} for i in range(COUNT)]
        (folder / f"{name}.json").write_text(json.dumps(records))
    return ["alpaca-eval", "mine.json", "--reference_outputs", "reference.json", "--swapped", "4"], COUNT + 4


def write_mt_bench(folder):
    from ropo.evaluation.mt_bench.benchmark import NAMES

    templates = {name: "{question_1} | {answer_2}" if name.endswith("turn") else "{answer}" for name in NAMES.values()}
    records = {
        "questions": [{"question_id": i, "category": "stem", "turns": ["a", "b"]} for i in range(COUNT)],
        "reference_answers": [{"question_id": 0, "choices": [{"turns": ["a", "b"]}]}],
        "judge_prompts": [
            {
                "name": name,
                "system_prompt": "s",
                "prompt_template": text.replace("{answer", "{answer_a") if "pair" in name else text,
            }
            for name, text in templates.items()
        ],
        "mine": [{"question_id": i, "choices": [{"turns": [f"one {i}", f"two {i}"]}]} for i in range(COUNT)],
    }
    for name, lines in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [part for name in list(records)[:3] for part in (f"--{name}", f"{name}.jsonl")]
    return ["mt-bench", "mine.jsonl", *flags], 2 * COUNT


@pytest.mark.parametrize(
    ("write", "answer"),
    [(write_alpaca_eval, "B"), pytest.param(write_mt_bench, "[[4]]", marks=pytest.mark.slow)],  # the same machinery
)
def test_no_answered_call_is_made_again(tmp_path, monkeypatch, capsys, write, answer):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    flags, questions = write(tmp_path)
    with serving(answer=lambda body: answer, hold_after=ANSWERED) as server:
        judge = ["--judge", "openai:m", "--judge_url", server.url, "--judge_concurrency", "3"]
        command = ["evaluate", *flags, *judge, "--output", "out"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ropo", *command],
            env=os.environ | {"OPENAI_API_KEY": KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: len(list(tmp_path.rglob("verdicts/*/*.json"))) == ANSWERED, process)
        finally:
            process.kill()
            process.wait()
        assert not (tmp_path / "out" / "results.json").exists()
        killed = server.answered.copy()
        assert killed.total() == ANSWERED
        server.hold_after = None
        assert main(command) == 0
        assert server.answered.total() == questions
        assert set(server.answered.values()) == {1}, "an answered call is not made again"
    (found,) = read_results(tmp_path / "out").models
    assert found.details["judge"]["kept"] == ANSWERED
    assert found.details["judge"]["calls"] == questions - ANSWERED
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > questions
    assert not any(KEY in file.read_text() for file in files)


def wait_for(condition, process) -> None:
    """Wait until a condition holds; the process imports torch first, which takes long on a busy machine."""
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("the run asked nothing for five minutes")
