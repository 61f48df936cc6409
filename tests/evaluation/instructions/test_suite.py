"""`ropo evaluate instructions`: what is counted, and the command as a user runs it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from ropo.cli.main import main
from ropo.evaluation.contestants import Contestant, answer_prompts
from ropo.evaluation.instructions.measure import instruction_values
from ropo.evaluation.results import read_results
from ropo.lm.sampling import Answer, PromptRecord, SamplingSettings, read_prompts
from tests.tiny.sampled import TEXTS, write_prompts

AT_MOST_TWO = {"name": "at_most_words", "parameters": {"limit": 2}}
NO_CAT = {"name": "avoid_word", "parameters": {"word": "cat"}}


def prompt(*instructions) -> PromptRecord:
    return PromptRecord({"prompt": "x", "instructions": list(instructions)}, [{"role": "user", "content": "x"}], 1)


def answers(*texts, finished=True) -> list[Answer]:
    return [Answer(text, tuple(range(len(text.split()) + 1)), finished) for text in texts]


def test_values_worked_by_hand():
    prompts = [prompt(AT_MOST_TWO, NO_CAT), prompt(NO_CAT)]
    groups = [answers("dog", "a cat", "one two three"), answers("cat", "dog", "dog", finished=False)]
    by_metric = instruction_values(prompts, groups)
    assert list(by_metric) == ["passes", "passes_at_most_words", "passes_avoid_word", "tokens", "cut_off"]
    assert by_metric["passes"].kept == pytest.approx([1 / 3, 2 / 3])
    assert by_metric["passes_at_most_words"].kept == pytest.approx([2 / 3])  # the second prompt does not ask for it
    assert by_metric["passes_avoid_word"].kept == pytest.approx([2 / 3, 2 / 3])
    assert by_metric["tokens"].kept == pytest.approx([3, 2])
    assert by_metric["cut_off"].kept == pytest.approx([0, 1])


def test_one_answer_a_prompt_is_true_or_false():
    by_metric = instruction_values([prompt(NO_CAT), prompt(NO_CAT)], [answers("cat"), answers("dog")])
    assert by_metric["passes"].kept.dtype == np.bool_
    assert by_metric["passes"].kept.tolist() == [False, True]


def evaluate(output, prompts, *arguments) -> int:
    flags = ["--prompts", prompts, "--output", output, "--max_new_tokens", 6]
    return main(["evaluate", "instructions", *map(str, arguments), *map(str, flags)])


def test_two_models(models, tmp_path, capsys):
    prompts = write_prompts(tmp_path / "p.jsonl", TEXTS, instructions=[AT_MOST_TWO])
    assert evaluate(tmp_path / "out", prompts, models["base"], models["tuned"], "--samples", 3, "--seed", 5) == 0
    result = read_results(tmp_path / "out")
    sampling = SamplingSettings(3, temperature=0.8, top_p=0.95, max_new_tokens=6, seed=5)
    cache = tmp_path / "out" / "cache"
    shares = {
        name: [
            np.mean([len(re.findall("[a-z]+", answer.text)) in (1, 2) for answer in group])
            for group in answer_prompts(Contestant(name, source), read_prompts(prompts), sampling, 32, cache)
        ]
        for name, source in models.items()
    }
    base, tuned = result.models
    assert 0 < np.mean(shares["base"]) < 1
    assert base.metric("passes").value == pytest.approx(np.mean(shares["base"]))
    assert tuned.metric("passes").value == pytest.approx(np.mean(shares["tuned"]))
    change = tuned.change("passes")
    assert change.value == pytest.approx(np.mean(shares["tuned"]) - np.mean(shares["base"]))
    assert (change.count, change.test) == (7, "sign-flip")
    assert (result.suite, result.seed, result.data["prompts"].counts) == ("instructions", 5, {"prompts": 7})
    assert "passes_at_most_words" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (None, "jsonl:1: has no `instructions`; write a list"),
        ([], "jsonl:1: has no `instructions`; write a list"),
        ([{"name": "sing"}], "jsonl:1: instruction 'sing': is not in the library"),
        ([{"name": "avoid_word", "parameters": {"words": 1}}], "jsonl:1: instruction avoid_word: takes the parameters"),
        (
            [AT_MOST_TWO, {**AT_MOST_TWO, "parameters": {"limit": "2"}}],
            "jsonl:1: instruction at_most_words: limit must be",
        ),
        ([{**NO_CAT, "parameters": {"word": None}}], "jsonl:1: instruction avoid_word: word must be text"),
        ([{**NO_CAT, "parameters": None}], "jsonl:1: instruction avoid_word: takes the parameters"),
        (["avoid_word"], "jsonl:1: has no `instructions`; write a list"),
    ],
)
def test_prompts_without_good_instructions_are_named(models, tmp_path, capsys, instructions, message):
    record = {"prompt": "the cat"} | ({} if instructions is None else {"instructions": instructions})
    (tmp_path / "p.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert evaluate(tmp_path / "out", tmp_path / "p.jsonl", models["base"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
