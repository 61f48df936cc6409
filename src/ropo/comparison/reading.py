"""Read a recipe from YAML, and say of every mistake in which line it is."""

from __future__ import annotations

__all__ = ["RecipeFile"]

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ropo.comparison.frontier.options import Frontier
from ropo.comparison.recipe import Budget, DataSet, PairSource, Recipe
from ropo.core.errors import UserError
from ropo.core.names import did_you_mean
from ropo.core.yaml_files import read_mapping, value_of

_Place = tuple[str | int, ...]

# The keys of each part that takes no others, by the names of the keys that lead there.
_PARTS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Recipe,
    ("data",): DataSet,
    ("budget",): Budget,
    ("frontier",): Frontier,
    **{("data", name): PairSource for name in ("train", "validation", "test")},
}


class RecipeFile:
    """A recipe and the lines that its keys stand in.

    Attributes:
        path: The file.
        recipe: The recipe, with the names of files resolved.
        written: The recipe as it was written, with every default filled in.
    """

    def __init__(self, path: Path) -> None:
        """Read and check a file.

        Raises:
            UserError: With file, line and key, if it is no recipe.
        """
        self.path = path
        self._lines: dict[_Place, int] = {}
        self._texts: dict[_Place, str] = {}
        content = self._load()
        try:
            self.written = Recipe.model_validate(content)
        except ValidationError as error:
            raise self._explain(error) from error
        try:
            self.recipe = self.written.placed(path.parent)
        except UserError as error:
            raise self.error(("model",), str(error)) from error

    def error(self, place: _Place, message: str) -> UserError:
        """Return the error of a place, which stands in the line of its nearest key.

        Args:
            place: Keys and numbers that lead there.
            message: What is wrong; a key of that place that it names gives the line, or one whose file it names.
        """
        keys = [key for key in self._lines if key[:-1] == place and isinstance(key[-1], str)]
        about = set(message.replace("--", " ").replace("'", " ").split(":")[0].split(";")[0].split())
        named = next((key for key in keys if str(key[-1]) in about), None)
        files = (key for key, text in self._texts.items() if key[: len(place)] == place and Path(text).name in message)
        named = named or next(files, place)
        while named and named not in self._lines:
            named = named[:-1]
        return UserError(f"{self.path}:{self._lines.get(named, 1)}: {message}")

    def _load(self) -> Any:
        node = read_mapping("recipe", self.path)
        if node is None:
            raise UserError(f"{self.path}:1: a recipe must be a mapping, such as `title: ...`; see docs/comparison.md")
        self._note_lines(node, ())
        return value_of(self.path, node)

    def _note_lines(self, node: yaml.Node, place: _Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*place, str(key.value))
                if here in self._lines:
                    raise UserError(f"{self.path}:{key.start_mark.line + 1}: {key.value} is given twice; remove one")
                self._lines[here] = key.start_mark.line + 1
                self._note_lines(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._lines[(*place, number)] = value.start_mark.line + 1
                self._note_lines(value, (*place, number))
        elif node.value:
            self._texts[place] = str(node.value)

    def _explain(self, error: ValidationError) -> UserError:
        first = min(
            error.errors(), key=lambda each: each["type"] != "extra_forbidden"
        )  # a typo makes a key missing too
        place: _Place = first["loc"]
        name = ".".join(map(str, place))
        if first["type"] == "extra_forbidden":
            part = _PARTS[tuple(key for key in place[:-1] if isinstance(key, str))]
            hint = did_you_mean(str(place[-1]), part.model_fields) or f"; known are {', '.join(part.model_fields)}"
            return self.error(place, f"{name}: is no key of a recipe{hint}")
        if first["type"] == "missing":
            return self.error(place[:-1], f"{name} is missing; add it")
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            return self.error(place, message if not name else f"{message} ({name})")
        return self.error(place, f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}; mend it")
