"""`ropo train --plan`, quantised bases, and settings that fit a GPU."""

from __future__ import annotations

import argparse
import dataclasses
import re
from importlib.util import find_spec

import pytest
import torch
from rich.console import Console

from ropo.cli.main import main
from ropo.cli.train_options import read_train_options
from ropo.core.errors import UserError
from ropo.lm import loading
from ropo.lm.tokens import Limits, TokenPair
from ropo.runs import plan as planning
from ropo.runs.plan import fit
from ropo.training.config import PreferenceConfig
from tests.cli.conftest import PAIRS, train


def plan(model, data, *flags, flag="--plan") -> int:
    return main(["train", flag, "--model", str(model), "--data", str(data), *map(str, flags)])


@pytest.mark.parametrize("flag", ["--plan", "--dry_run"])
def test_a_plan_says_what_would_be_trained_and_leaves_nothing(model, pairs, tmp_path, capsys, monkeypatch, flag):
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("loaded weights"))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert plan(model, pairs, "--per_device_train_batch_size", 2, flag=flag) == 0
    out = capsys.readouterr().out
    assert "trainable parameters" in out
    for part in ("weights", "adapter", "optimizer", "activations", "at the peak"):
        assert part in out
    assert "in the 2 longest together" in out
    assert "that are free: fits" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_that_is_too_much_says_what_to_try(model, pairs, capsys, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda device: 1)
    assert plan(model, pairs) == 0
    out = capsys.readouterr().out
    assert "is too much" in out
    assert "try       --gradient_checkpointing --tokens_per_step" in out


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("lengths", [(3, 4, 5), (9, 2, 6), (14, 1, 3), (3, 12, 15), (3, 4, 40), (8, 40, 50)])
def test_a_plan_counts_tokens_as_training_packs_them(mode, lengths):
    limits = Limits(15, mode)
    prompt, chosen, rejected = lengths
    pair = TokenPair(range(prompt), range(100, 100 + chosen), range(200, 200 + rejected))
    counted = planning._lengths(limits, pair)
    assert counted.packed == limits.packed_tokens(*lengths)
    assert min(dataclasses.astuple(counted)) >= 1


def test_a_plan_leaves_out_what_training_drops(model, pairs, capsys):
    assert plan(model, pairs, "--tokens_per_step", 10) == 0
    out = capsys.readouterr().out
    left = int(re.search(r"(\d+) of them left out in training", out)[1])
    assert 0 < left < len(PAIRS)
    longest = int(re.search(r"([\d,]+) in the longest,", out)[1])
    assert longest <= 10
    assert plan(model, pairs, "--tokens_per_step", 2) == 2
    assert "can be trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("room", "expected"),
    [(1000, (False, None)), (600, (True, None)), (220, (True, 400)), (120, (True, 200)), (1, (True, 150))],
)
def test_the_fastest_settings_that_fit_are_chosen(room, expected):
    def peak(checkpointing: bool, budget: int | None) -> int:
        return min(budget or 1600, 1600) // 2 if checkpointing else 1000

    if expected == (True, None):
        assert fit(lambda on, budget: 500 if on else 1000, room, 150, 1600) == expected
    else:
        assert fit(peak, room, 150, 1600) == expected


def test_on_a_gpu_checkpointing_and_a_budget_are_chosen_and_said(monkeypatch, capsys, model, pairs, tmp_path):
    options = train_options(model, pairs, tmp_path)
    monkeypatch.setattr(planning, "free_memory", lambda device: 10_000_000_000)
    console = Console(width=200)
    for chosen, told in (((False, None), ""), ((True, None), "--gradient_checkpointing True;"), ((True, 512), "512;")):
        monkeypatch.setattr(planning, "settings_that_fit", lambda plan, free, chosen=chosen: chosen)
        found = planning.fitted_to_gpu(options, lambda: None, console)
        out = capsys.readouterr().out
        assert (told in out) if told else out == ""
        assert found.trainer.get("gradient_checkpointing", False) == chosen[0]
        assert found.trainer.get("tokens_per_step") == chosen[1]


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        *[("cuda", {}, True), ("cpu", {}, False), ("cuda", {"gradient_checkpointing": False}, False)],
        *[("cuda", {"tokens_per_step": 99}, False), ("cuda", {"beta": 0.2}, True)],
    ],
)
def test_a_gpu_has_settings_chosen_where_none_was_given(model, pairs, tmp_path, monkeypatch, device, given, expected):
    options = dataclasses.replace(train_options(model, pairs, tmp_path), trainer=given)
    monkeypatch.setattr(PreferenceConfig, "device", torch.device(device))
    assert planning.fits_itself(options, PreferenceConfig(str(tmp_path), use_cpu=True)) is expected


def test_a_model_of_which_nothing_is_known_is_trained_all_the_same(monkeypatch, model, pairs, tmp_path):
    def unknown():
        raise UserError("plan: it cannot be packed")

    monkeypatch.setattr(planning, "free_memory", lambda device: 10)
    options = train_options(model, pairs, tmp_path)
    assert planning.fitted_to_gpu(options, unknown, Console()) is options


def train_options(model, pairs, tmp_path):
    return read_train_options(argparse.Namespace(model=str(model), data=str(pairs), output=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--load_in_4bit", "--load_in_8bit"), "load_in_4bit: cannot be combined with --load_in_8bit"),
        (("--load_in_8bit", "--method", "full"), "load_in_8bit: quantised weights cannot be trained"),
    ],
)
def test_what_cannot_be_quantised_is_refused(model, pairs, tmp_path, capsys, flags, message):
    assert train(model, pairs, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_bitsandbytes_one_line_says_so(model, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    assert train(model, pairs, tmp_path / "out", "--load_in_4bit") == 2
    assert "load_in_4bit: needs bitsandbytes, which is not installed" in capsys.readouterr().err


def test_a_gguf_file_is_not_quantised_again(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=r"load_in_4bit: .*quantised already"):
        loading.load_model("model.Q4.gguf", bits=4)


def test_a_plan_counts_the_bits(model, pairs, capsys):
    totals = []
    for flags in ((), ("--load_in_8bit",), ("--load_in_4bit",)):
        assert plan(model, pairs, *flags) == 0
        totals.append(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("model")))
    assert "float32" in totals[0]
    assert "8 bits" in totals[1]
    assert "4 bits" in totals[2]
