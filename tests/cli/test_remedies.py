"""Remedies on the command line: every row of the table of names trains in packs, and all of it is recorded."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ropo.core.record import read_record
from tests.cli.conftest import MANY, logged, train, write_pairs

PAGE = (Path(__file__).parents[2] / "docs" / "remedies.md").read_text(encoding="utf-8")
_TABLE = PAGE.partition("## Names and flags")[2]
NAMES = dict(re.findall(r"^\| ([^|`]+) \| `(--[^`]+)` \|$", _TABLE, flags=re.MULTILINE))
WORDS = ("the cat", "sat on", "mat", "dog ran", "fast slow", "one two three", "yes no", "a", ".")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "plain.txt"
    draw = random.Random(0)
    file.write_text(" ".join(draw.choice(WORDS) for _ in range(3000)))
    return file


def test_the_table_has_every_name() -> None:
    assert len(NAMES) == 27
    ours = {"--dpop_lambda", "--rdpo_alpha", "--rpo_alpha", "--anchor_text", "--sync_ref_model", "--ema_decay"}
    assert ours <= {flag for flags in NAMES.values() for flag in flags.split()}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_trains_in_packs(name, model, pairs, text, tmp_path) -> None:
    output = tmp_path / "out"
    flags = NAMES[name].replace("FILE", str(text)).split()
    assert train(model, pairs, output, "--learning_rate", 0.05, "--logging_steps", 1, *flags) == 0
    steps = [entry for entry in logged(output) if "loss" in entry]
    assert len(steps) == 2
    assert all(entry["packing_ratio"] > 1.2 for entry in steps)
    assert {"drift/chosen_per_token", "drift/rejected_per_token", "drift/per_token"} <= set(steps[-1]) or "ld" in flags[
        0
    ]
    given = read_record(output).config["trainer"]
    for flag in filter(None, " ".join(flags).split("--")):
        option, *values = flag.split()
        recorded = given[option] if isinstance(given[option], list) else [given[option]]
        assert recorded == [type(each)(value) for each, value in zip(recorded, values or ["true"], strict=True)]
    assert (output / "adapter_model.safetensors").is_file()
    assert not (output / "ref").exists()


def test_all_of_them_together_are_carried_on_bit_for_bit(model, tmp_path, text) -> None:
    """What remembers something: the average, the moved reference, beta, the windows of the text, the budget."""
    data, held_out = write_pairs(tmp_path / "pairs.jsonl", MANY), write_pairs(tmp_path / "held_out.jsonl", MANY[:8])
    flags = ("--dpop_lambda", 5, "--rdpo_alpha", 0.01, "--rpo_alpha", 0.5, "--anchor_text", text, "--anchor_loss", "kl")
    flags += ("--sync_ref_model", "--ref_model_sync_steps", 2, "--ema_decay", 0.8, "--beta_final", 0.3)
    flags += ("--eval_data", held_out, "--monitor_steps", 2, "--stop_at_kl", 100, "--learning_rate", 0.05)
    flags += ("--max_steps", 6, "--save_strategy", "steps", "--save_steps", 1, "--logging_steps", 1)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert train(model, data, whole, *flags) == 0
    assert train(model, data, resumed, *flags, "--resume_from_checkpoint", whole / "checkpoint-3") == 0
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    assert read_record(whole).metrics["kl_budget"] == read_record(resumed).metrics["kl_budget"]
    assert read_record(whole).data["anchor_text"].name == str(text)


def test_an_anchor_text_that_changed_is_told(model, pairs, tmp_path, capsys) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("the cat sat on the mat . " * 20)
    flags = ("--anchor_text", text, "--save_strategy", "steps", "--save_steps", 1)
    assert train(model, pairs, tmp_path / "whole", *flags) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "out.incomplete")
    moved = text.rename(tmp_path / "moved.txt")
    text.write_text("the dog ran on the mat . " * 20)
    unfinished = read_record(tmp_path / "whole").model_copy(update={"status": "running"})
    unfinished.write(tmp_path / "out.incomplete")
    capsys.readouterr()
    assert train(model, pairs, tmp_path / "out", *flags, "--resume") == 2
    assert "error: anchor_text data (content): the run in" in capsys.readouterr().err
    flags = ("--anchor_text", moved, *flags[2:])
    assert train(model, pairs, tmp_path / "out", *flags, "--resume") == 0


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--anchor_text", "SHORT"], ["anchor_text", "needs at least two tokens of plain text, got 1"]),
        (["--anchor_text", "EMPTY"], ["anchor_text", "needs at least two tokens of plain text, got 0"]),
        (["--anchor_text", "nowhere.txt"], ["anchor_text nowhere.txt: no such file"]),
        (["--anchor_weight", "2"], ["anchor_weight, anchor_loss: there is no anchor text"]),
        (["--anchor_loss", "mse"], ["anchor_loss: there is no 'mse'"]),
        (["--ema_decay", "1"], ["ema_decay: must be above 0 and below 1, got 1"]),
        (["--beta_final", "0"], ["beta_final: must be above 0"]),
        (["--ema_decay", "0.9", "--load_best_model_at_end"], ["ema_decay: cannot be combined"]),
        (["--loss_type", "simpo", "--dpop_lambda", "5"], ["dpop_lambda: changes the losses sigmoid and cdpo only"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model, pairs, tmp_path, capsys, flags, parts) -> None:
    files = {"SHORT": "cat", "EMPTY": ""}
    for name, words in files.items():
        (tmp_path / name).write_text(words)
    if "--load_best_model_at_end" in flags:
        flags = [
            *flags,
            "--eval_strategy",
            "steps",
            "--save_strategy",
            "steps",
            "--eval_data",
            str(pairs),
            "--eval_steps",
            "1",
            "--save_steps",
            "1",
        ]
    given = [str(tmp_path / flag) if flag in files else flag for flag in flags]
    capsys.readouterr()
    assert train(model, pairs, tmp_path / "out", *given) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    for part in parts:
        assert part in error
    assert {file.name for file in tmp_path.iterdir()} == {"pairs.jsonl", *files}
