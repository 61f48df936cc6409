"""Whatever stands in a configuration or a recipe, it is read rightly or refused in one line that names the file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from ropo.cli.parser import Parser
from ropo.cli.train_options import add_train_options, read_train_options
from ropo.comparison.reading import RecipeFile
from ropo.runs.options import TrainOptions
from tests.fuzz import yaml_contents
from tests.fuzz.harness import examples, fuzz


@examples
def test_recipes(tmp_path: Path, count: int) -> None:
    def check(file: RecipeFile, content: bytes) -> None:
        written = yaml.safe_load(content)
        assert file.written.title == written["title"].strip()
        assert [each.label for each in file.written.methods] == [each["label"].strip() for each in written["methods"]]
        assert all(math.isfinite(rate) for each in file.recipe.methods for rate in each.rates)

    fuzz(count, yaml_contents.odd(yaml_contents.recipes()), tmp_path / "recipe.yaml", RecipeFile, check)


@examples
def test_options(tmp_path: Path, monkeypatch: Any, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="ropo train")
    add_train_options(parser)

    def read(file: Path) -> TrainOptions:
        return read_train_options(parser.parse_args(["--config", str(file)]))

    def check(options: TrainOptions, content: bytes) -> None:
        written = yaml.safe_load(content)
        for name in ("model", "data"):
            assert getattr(options, name) == str(written[name])
        for name, value in options.trainer.items():
            given = written.get(name, written.get(name.replace("_", "-")))
            if isinstance(value, float) and given is not None:
                assert value == float(given) or (math.isnan(value) and math.isnan(float(given)))

    fuzz(
        count, yaml_contents.odd(yaml_contents.options()), tmp_path / "options.yaml", read, check, yaml_contents.OPTIONS
    )
