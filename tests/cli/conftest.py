"""A tiny model and a few pairs, on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ropo.cli.main import main
from ropo.cli.parser import Parser
from ropo.cli.train_options import add_train_options

PAIRS = [
    {"prompt": "the cat sat", "chosen": "on the mat .", "rejected": "on the dog ."},
    {"prompt": "the dog ran", "chosen": "fast .", "rejected": "slow ."},
    {"prompt": "one two", "chosen": "three", "rejected": "no"},
    {"prompt": "a dog", "chosen": "yes", "rejected": "no"},
]
WORDS = ("the cat", "a dog", "one", "two", "three", "no cat sat", "yes", "the mat")
MANY = [{**pair, "prompt": f"{words} {pair['prompt']}"} for words in WORDS for pair in PAIRS][:29]
"""More pairs than a warning needs to be sure of itself."""


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def write_pairs(file: Path, records=PAIRS) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def train(model, data, output, *flags) -> int:
    """Train two steps on the command line, in this process."""
    arguments = ["train", "--model", model, "--data", data, "--output", output, "--max_steps", 2, "--use_cpu", *flags]
    return main([str(argument) for argument in arguments])


LN2 = math.log(2)


def parser() -> Parser:
    """Return what parses the flags of `ropo train`."""
    made = Parser(prog="ropo train")
    add_train_options(made)
    return made


def logged(output) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


PROBE = torch.arange(14)[None]


def merge(adapter, output, *flags) -> int:
    return main(["merge", str(adapter), "--output", str(output), *flags])
