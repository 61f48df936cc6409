"""What the guides show is what works: every command of theirs is run, on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from itertools import dropwhile
from pathlib import Path

import pytest

from ropo.cli.main import main
from ropo.cli.parser import Parser
from ropo.cli.train_options import add_train_options, read_train_options
from ropo.runs.inputs import choose_method
from ropo.runs.options import trainer_config
from tests.tiny.sampled import save_tiny

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
PAIR = {"chosen": "on the mat .", "rejected": "on the dog ."}
BRIEF = {"name": "at_most_words", "family": "length", "parameters": {"limit": 3}}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Go to a folder with the files that the guides speak of."""
    monkeypatch.setenv("MODEL", save_tiny(tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    for name in ("pairs", "held_out", "test"):
        write(tmp_path / f"{name}.jsonl", [{"prompt": f"{name} {number} the cat sat", **PAIR} for number in range(8)])
    write(tmp_path / "prompts.jsonl", [{"prompt": "the cat"}, {"prompt": "a dog"}])
    checkable = [{"prompt": f"{words} .", "instructions": [BRIEF]} for words in ("the cat", "a dog", "one two", "yes")]
    write(tmp_path / "checkable.jsonl", checkable)
    return tmp_path


def write(file: Path, records: list[dict]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", guide.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(guide: Path) -> list[list[str]]:
    """Return the commands of a guide's shell blocks, as lists of words; a backslash joins lines."""
    lines = "\n".join(blocks(guide, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def check_flags(flags: list[str]) -> None:
    """Check the flags of `ropo train` without running it."""
    parser = Parser(prog="ropo train")
    add_train_options(parser)
    options = read_train_options(parser.parse_args(flags))
    choose_method(options)
    trainer_config(options, 1e-4, options.output)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_commands_of_a_guide_work(guide, place, monkeypatch, capsys):
    model = str(place / "model")
    for recipe in blocks(guide, "yaml"):
        (place / "recipe.yaml").write_text(recipe.replace("$MODEL", model))
    ran = 0
    for words in commands(guide):
        words = [word.replace("$MODEL", model) for word in words]
        words = list(dropwhile(lambda word: "=" in word, words))  # variables before a command
        if words[:2] == ["pip", "install"]:
            continue
        if words[0] == "ropo":
            assert main(words[1:]) == 0, (words, capsys.readouterr().err)
        else:  # a launcher of several processes, which other tests start: here its flags are read
            assert words[0] in ("torchrun", "accelerate"), words
            file = words[words.index("--config_file") + 1] if "--config_file" in words else "README.md"
            assert (ROOT / file).is_file()
            check_flags(words[words.index("train") + 1 :])
        ran += 1
    assert ran


def test_every_json_line_shown_is_a_record():
    shown = [line for guide in GUIDES for block in blocks(guide, "json") for line in block.splitlines()]
    assert shown
    for line in shown:
        assert {"prompt", "chosen", "rejected"} <= set(json.loads(line))
