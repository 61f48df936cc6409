"""A tiny run measured along its way: the numbers, that a killed measurement goes on, and mistakes in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ropo.cli.main import main
from ropo.diagnostics.comparison import sampled_kl
from ropo.evaluation.path import measure
from ropo.evaluation.path.measure import places_to_measure
from ropo.evaluation.path.results import read_path
from ropo.instructions import satisfied
from ropo.lm.held_out import read_held_out, trained_limits
from ropo.lm.loading import load_model, load_policy, load_tokenizer
from ropo.lm.log_probs import pair_log_probs, text_losses
from ropo.lm.sampling import SamplingSettings, encode_prompts, read_prompts, sample_answers
from ropo.lm.tokens import text_windows
from tests.cli.conftest import PAIRS, write_pairs
from tests.tiny.sampled import save_tiny, write_prompts

TOLD = [{"name": "at_most_words", "family": "length", "parameters": {"limit": 3}}]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, data, and runs of two methods that kept a checkpoint a step."""
    folder = tmp_path_factory.mktemp("path")
    save_tiny(folder / "model")
    write_pairs(folder / "pairs.jsonl", PAIRS)
    write_prompts(folder / "prompts.jsonl", ("the cat sat", "one two", "a dog"), instructions=TOLD)
    told = [{"name": "at_most_words", "parameters": {"limit": "3"}}]
    write_prompts(folder / "wrong.jsonl", ("the cat sat",), instructions=told)
    (folder / "text.txt").write_text("the cat sat on a mat . one two " * 20, encoding="utf-8")
    for method in ("ropo", "full"):
        assert main(train(folder, method, "--save_strategy=steps", "--save_steps=1", "--save_only_model=true")) == 0
    return folder


def train(folder: Path, method: str, *flags: str) -> list[str]:
    given = ["--model", str(folder / "model"), "--data", str(folder / "pairs.jsonl"), "--output", str(folder / method)]
    settings = ["--max_steps=3", "--per_device_train_batch_size=2", "--learning_rate=0.02", "--beta=0.3"]
    return ["train", *given, "--method", method, *settings, "--use_cpu=true", "--monitor_steps=0", *flags]


def command(folder: Path, run: str, output: Path, *flags: str) -> list[str]:
    data = ["--pairs", str(folder / "pairs.jsonl"), "--prompts", str(folder / "prompts.jsonl")]
    data += ["--text", str(folder / "text.txt"), "--window", "16", "--max_windows", "4", "--max_new_tokens", "5"]
    return ["path", str(folder / run), *data, "--samples", "2", "--output", str(output), *flags]


def test_checkpoints_are_spread_and_end_with_the_last():
    assert places_to_measure(8, 4) == [1, 3, 5, 7]
    assert places_to_measure(8, None) == places_to_measure(8, 9) == list(range(8))
    assert places_to_measure(5, 2) == [2, 4]
    assert places_to_measure(3, 1) == [2]
    assert places_to_measure(3, 0) == []


@pytest.mark.parametrize("method", ["ropo", "full"])
def test_the_numbers_are_those_of_each_checkpoint_alone(place, tmp_path, method):
    assert main(command(place, method, tmp_path / "out", "--sampled", "2")) == 0
    found = read_path(tmp_path / "out")
    assert [point.step for point in found.points] == [1, 2, 3]
    assert [point.answers is not None for point in found.points] == [False, True, True]
    assert found.beta == 0.3
    flags = ["--checkpoints", "1", "--sampled", "0", "--beta", "0.6"]
    assert main(command(place, method, tmp_path / "other", *flags)) == 0
    other = read_path(tmp_path / "other")
    assert other.settings["plain_prompts"] is found.settings["plain_prompts"] is False
    assert other.points[0].margins(other.beta) == pytest.approx(2 * found.points[2].margins(found.beta), rel=1e-5)
    base, tokenizer = load_model(str(place / "model")).eval(), load_tokenizer(str(place / "model"))
    pairs = read_held_out(
        str(place / "pairs.jsonl"), "test", tokenizer, trained_limits(str(place / method)), found.settings["max_pairs"]
    )
    prompts = read_prompts(place / "prompts.jsonl")
    encoded = encode_prompts(tokenizer, prompts)
    windows = text_windows(tokenizer, (place / "text.txt").read_text(), 16, 4)
    sampling = SamplingSettings(2, 1.0, 1.0, 5, 0)
    assert found.reference.text == pytest.approx(text_losses(base, windows), abs=1e-6)
    changed = 0
    for point in found.points:
        policy = load_policy(str(place / method / f"checkpoint-{point.step}")).eval()
        gains = pair_log_probs(policy, pairs.tokens, pairs.limits) - pair_log_probs(base, pairs.tokens, pairs.limits)
        # sums of a few float32 log-probs, of merged weights here and there of an adapter's
        torch.testing.assert_close(torch.tensor([point.chosen, point.rejected]).T.double(), gains, atol=1e-4, rtol=0)
        assert point.text == pytest.approx(text_losses(policy, windows), abs=1e-5)
        if point.answers is None:
            continue
        answers = sample_answers(policy, tokenizer, encoded, sampling)
        kl = sampled_kl(policy, lambda: _Open(base), encoded, answers)
        assert sum(point.answers.kl) / 3 == pytest.approx(kl.per_answer, abs=1e-4)
        assert point.answers.measure.tokens_by_prompt == [sum(len(a.tokens) for a in g) / 2 for g in answers]
        assert point.answers.passed == [sum(all(satisfied(TOLD, a.text)) for a in g) / 2 for g in answers]
        changed += kl.per_answer > 1e-3
    assert changed == 2
    assert found.reference.answers.kl == [0.0] * 3


class _Open:
    """Open a model that is there anyway."""

    def __init__(self, model) -> None:
        self.model = model

    def __enter__(self):
        return self.model

    def __exit__(self, *error) -> None:
        """Leave it open."""


def test_the_line_of_a_checkpoint_says_what_the_result_says(place, tmp_path, capsys):
    """Windows weigh by their tokens: the last one of a text is shorter."""
    (place / "uneven.txt").write_text("the cat sat on a mat . one two " * 10 + "fast slow no", encoding="utf-8")
    flags = ("--text", str(place / "uneven.txt"), "--window", "45", "--checkpoints", "1")
    assert main(command(place, "full", tmp_path / "out", *flags)) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("step 3: ")]
    found = read_path(tmp_path / "out")
    assert found.text_tokens == [44, 44, 2]
    rises = np.array(found.points[0].text) - np.array(found.reference.text)
    rise = float(np.average(rises, weights=found.text_tokens))
    assert f"text loss {rise:+.4f}, " in line
    assert f"{rise:+.4f}" != f"{rises.mean():+.4f}", "the windows must differ for this test to see it"


def test_a_killed_measurement_goes_on_and_measures_nothing_twice(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(place, "ropo", out)) == 0
    whole, lines = read_path(out), capsys.readouterr().out.splitlines()
    steps = [line.split(":")[0] for line in lines if line.startswith("step ")]
    assert steps == ["step 1", "step 2", "step 3"]
    assert all(line.endswith(" left") for line in lines if line.startswith("step "))
    (out / "results.json").unlink()
    (out / "step-2.json").unlink()
    kept = (out / "step-3.json").stat().st_mtime_ns
    assert main(command(place, "ropo", out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == ["step 2"]
    assert "2 of 3 checkpoints are measured already" in lines
    assert "measuring the reference" not in lines
    assert (out / "step-3.json").stat().st_mtime_ns == kept
    again = read_path(out)
    assert (again.points, again.reference) == (whole.points, whole.reference)


def test_what_was_measured_otherwise_is_measured_anew(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(place, "ropo", out, "--checkpoints", "2")) == 0
    capsys.readouterr()
    assert main(command(place, "ropo", out, "--checkpoints", "2", "--seed", "1", "--overwrite")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 2
    assert read_path(out).seed == 1
    assert main(command(place, "full", out, "--checkpoints", "2", "--seed", "1", "--overwrite")) == 0  # other weights
    assert sum(line.startswith("step ") for line in capsys.readouterr().out.splitlines()) == 2


def test_runs_share_the_reference_and_bfloat16_is_for_sampling_only(place, tmp_path, capsys, monkeypatch):
    cache = ["--cache", str(tmp_path / "cache")]
    assert main(command(place, "ropo", tmp_path / "a", *cache)) == 0
    assert "measuring the reference" in capsys.readouterr().out
    assert main(command(place, "full", tmp_path / "b", *cache)) == 0
    assert "measuring the reference" not in capsys.readouterr().out
    seen: dict[str, set[bool]] = {}

    def note(name, run, *given):
        seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
        return run(*given)

    for name in ("sample_answers", "answer_log_probs"):
        monkeypatch.setattr(measure, name, partial(note, name, getattr(measure, name)))
    assert main(command(place, "ropo", tmp_path / "c", *cache, "--bf16")) == 0
    assert seen == {"sample_answers": {True}, "answer_log_probs": {False}}
    exact, near = read_path(tmp_path / "a"), read_path(tmp_path / "c")
    assert exact.points[-1].text == near.points[-1].text


MISTAKES = [
    (["path", "RUN/nowhere"], "no such folder"),
    (["path", "RUN/model"], "has no run.json"),
    (["path", "RUN/bare"], "kept no checkpoint to measure; train with --save_strategy steps"),
    (["path", "RUN/ropo", "--text", "RUN/none.txt"], "no such file"),
    (["path", "RUN/ropo", "--prompts", "RUN/none.jsonl"], "no such file"),
    (["path", "RUN/ropo", "--prompts", "RUN/wrong.jsonl"], "wrong.jsonl:1: instruction at_most_words: limit must be"),
    (["path", "RUN/ropo", "--max_pairs", "0"], "max_pairs: "),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=[" ".join(given[1:]) for given, _ in MISTAKES])
def test_mistakes_are_one_line(place, tmp_path, capsys, given, message):
    if given[1] == "RUN/bare" and not (place / "bare").exists():
        bare = train(place, "ropo")
        assert main([str(place / "bare") if each == str(place / "ropo") else each for each in bare]) == 0
    capsys.readouterr()
    flags = [each.replace("RUN", str(place)) for each in given]
    assert main([*flags, "--pairs", str(place / "pairs.jsonl"), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ropo path: error: ")
    assert message in line
    assert not (tmp_path / "out" / "results.json").exists()
