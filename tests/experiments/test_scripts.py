"""Scripts of `experiments`, `benchmarks` and `examples` can start, and have the flags that they are shown with."""

from __future__ import annotations

import ast
import io
import re
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from ropo.cli.main import available_commands, main
from ropo.evaluation.suites import SUITES

ROOT = Path(__file__).parents[2]
FOLDERS = ("experiments", "benchmarks", "examples")
SCRIPTS = sorted(file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
SHELL = sorted(file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.sh"))
SHOWN = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")})
OURS = {"ropo", "tests", *FOLDERS}
CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`]+)`|^((?: {4}.*\n)+)", flags=re.DOTALL | re.MULTILINE)
SCRIPT = rf"(?:{'|'.join(FOLDERS)})/[\w/]+\.(?:py|sh)|benchmarks\.\w+"
COMMAND = re.compile(rf"\b(?P<command>ropo [a-z]+|{SCRIPT})(?P<rest>(?:(?! \|)[^`;])*)")


def imported(file: Path) -> set[tuple[str, str | None]]:
    """Return the modules of this repository that a script imports, with the name that it takes from each."""
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(each.name, None) for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {(node.module, each.name) for each in node.names}
    return {(module, name) for module, name in found if module.split(".")[0] in OURS}


def exists(module: str, name: str | None) -> bool:
    """Tell whether a module, and a name in it, can be imported."""
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        return False
    return name is None or hasattr(found, name) or (hasattr(found, "__path__") and bool(find_spec(f"{module}.{name}")))


@cache
def help_of_script(file: Path) -> str:
    """Return what `python FILE --help` says."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(file), "--help"])
        patch.syspath_prepend(str(ROOT / file.parent))
        said = until_exit(lambda: runpy.run_path(str(ROOT / file), run_name="__main__"))
    for name in set(sys.modules) - before:  # a module beside a script may have the name of one beside another
        if (ROOT / file.parent / f"{name}.py").exists():
            del sys.modules[name]
    return said


@cache
def help_of_command(words: tuple[str, ...]) -> str:
    """Return what `ropo WORDS --help` says, with every flag that there is."""
    return until_exit(lambda: main([*words, "--help_all" if words == ("train",) else "--help"]))


def until_exit(run: Callable[[], object]) -> str:
    """Return what is printed until it exits with 0."""
    with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        run()
    assert not ended.value.code
    return said.getvalue()


def parses_arguments(file: Path) -> bool:
    return "ArgumentParser(" in (ROOT / file).read_text(encoding="utf-8")


def commands(text: str) -> list[tuple[str, str]]:
    """Return the commands in a text, each with what follows it in its line; a backslash joins lines."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (COMMAND.search(re.split(r"\s# | {6,}(?=[a-z])", line)[0]) for line in lines)
    return [(each["command"], each["rest"]) for each in found if each]


def shown_commands() -> list[tuple[str, str, str]]:
    """Return place, command and rest of what docs, shell scripts and the scripts' own docstrings show."""
    found = []
    for page in SHOWN:
        for parts in CODE.findall(page.read_text(encoding="utf-8")):
            found += [(page.name, *each) for each in commands("".join(parts))]
    for file in SHELL:
        found += [(file.name, *each) for each in commands((ROOT / file).read_text(encoding="utf-8"))]
    for file in SCRIPTS:
        docstring = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
        found += [(file.name, *each) for each in commands(docstring)]
    return found


@pytest.mark.parametrize("file", SCRIPTS, ids=str)
def test_what_a_script_imports_from_here_exists(file):
    missing = sorted(f"{module}: {name}" for module, name in imported(file) if not exists(module, name))
    assert not missing


def test_imports_are_looked_at():
    assert sum(len(imported(file)) for file in SCRIPTS) > 100
    assert not exists("ropo.lm.tokens", "shorten_pair")
    assert not exists("ropo.lm.no_such_module", None)
    assert exists("ropo.lm", "tokens")


@pytest.mark.parametrize("file", list(filter(parses_arguments, SCRIPTS)), ids=str)
def test_a_script_says_how_it_is_called(file):
    assert "usage:" in help_of_script(file)


@pytest.mark.parametrize("file", SCRIPTS, ids=str)
def test_a_script_that_needs_the_whole_repository_is_shown_as_a_module(file):
    others = {module for module, _ in imported(file)} - {"ropo"}
    if any(module.split(".")[0] != "ropo" for module in others):  # `python FILE` does not find these
        assert f"python -m {'.'.join(file.with_suffix('').parts)}" in (ROOT / file).read_text(encoding="utf-8")


def flags_of(command: str, rest: str) -> set[str] | None:
    """Return the flags that a command has; None where it is a file without any, or no command."""
    if command.startswith("ropo "):
        words = (command.split()[1], *re.findall(r"^ ([a-z-]+)\b", rest))
        if words[0] not in available_commands():
            return None
        suites = [each for each in SUITES if words[-1] in (each, "evaluate")]  # all where none is named
        asked = [("evaluate", each) for each in suites] if words[0] == "evaluate" else [words[:1]]
        said = "".join(map(help_of_command, asked))
    else:
        file = Path(command) if "/" in command else Path(*command.split(".")).with_suffix(".py")
        assert (ROOT / file).is_file(), file
        if file not in SCRIPTS or not parses_arguments(file):
            return None
        said = help_of_script(file)
    return set(re.findall(r"--[\w-]+", said))


def test_every_command_that_is_shown_exists_with_its_flags():
    shown = shown_commands()
    places = {place for place, *_ in shown}
    assert {"README.md", "evaluation.md", "laptop.md", "run.sh", "train.sh", "sweep.py"} <= places
    checked = 0
    for place, command, rest in shown:
        asked = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", rest)) - {"--help"}
        known = flags_of(command, rest)
        assert asked <= (known or set()), (place, command, rest)
        checked += len(asked)
    assert checked > 100
