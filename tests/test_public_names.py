"""What a module offers: `__all__` is what other rooms may import, an underscore what is for its own file alone."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
FILES = sorted((SOURCE / "ropo").rglob("*.py"))
BESIDE = [file for part in ("tests", "benchmarks", "experiments") for file in (REPOSITORY / part).rglob("*.py")]
EXAMPLES = sorted((REPOSITORY / "examples").rglob("*.py"))
MOST_A_THOUSAND = 14  # names that modules offer, to a thousand lines of code; 12.8 when this was written
# What nobody takes by an import: a script of pyproject.toml, and names that `ropo` or a room loads when asked for them.
ELSEWHERE = {
    *(("ropo.cli.main", "entry"), ("ropo", "PreferenceConfig"), ("ropo", "PreferenceTrainer"), ("ropo", "RopoConfig")),
    *(("ropo.evaluation.alpaca_eval", name) for name in ("fit_length_control", "standard_error", "win_rate")),
}
# Modules that are kernels have what the protocols of `ops/choose.py` ask for.
KERNELS = {
    "ropo.ops.plain": ("rotated", "add_gradients", "stretched", "gradients"),
    "ropo.ops.gpu.rotation": ("rotated", "add_gradients"),
    "ropo.ops.gpu.stretch": ("stretched", "gradients"),
    "ropo.ops.cpu.stretch": ("stretched", "gradients"),
}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


MODULES = {module_of(file): file for file in FILES}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def defined_in(tree: ast.Module) -> set[str]:
    """Return the names that a module gives to functions, classes and values of its own."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return found - {"__all__"}


def offered_by(tree: ast.Module) -> set[str] | None:
    """Return a module's `__all__`, or None where it has none."""
    found = None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if "__all__" in {getattr(each, "id", None) for each in targets}:
            found = {*(found or ()), *ast.literal_eval(node.value)}
    return found


def taken_by(tree: ast.Module) -> set[tuple[str, str]]:
    """Return (module, name) of all that a file takes from the package, by import or as `module.name`."""
    taken, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    modules[alias.asname or alias.name] = whole
                else:
                    taken.add((node.module, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            taken.add((modules[node.value.id], node.attr))
    return taken


def words_of(tree: ast.Module) -> set[str]:
    """Return every name that a file imports, asks an object for, or writes as a text."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.rpartition(".")[2])
    return found


@cache
def taken_from_elsewhere() -> frozenset[tuple[str, str]]:
    """Return (module, name) of all that files outside a module's room take from it."""
    by_room = [(room_of(module), pair) for module, file in MODULES.items() for pair in taken_by(tree_of(file))]
    by_room += [("", pair) for file in EXAMPLES for pair in taken_by(tree_of(file))]
    return frozenset(pair for room, pair in by_room if room != room_of(pair[0]))


def test_the_reading_of_modules_sees_what_is_there():
    tree = ast.parse("__all__ = ['f']\n__all__ += ['g']\nA, _B = 1, 2\nC: int = 3\ndef f(): pass\nclass G: pass")
    assert defined_in(tree) == {"A", "_B", "C", "f", "G"}
    assert offered_by(tree) == {"f", "g"}
    assert offered_by(ast.parse("A = 1")) is None
    tree = ast.parse("from ropo.lm.tokens import Limits\nfrom ropo.core import once as o\no.say('x')")
    assert taken_by(tree) == {("ropo.lm.tokens", "Limits"), ("ropo.core.once", "say")}
    assert {"Limits", "say", "x"} <= words_of(tree)
    assert len(taken_from_elsewhere()) > 200


def test_every_module_says_what_it_offers():
    """An empty `__all__` says that all of it is for its own room, as PEP 8 has it."""
    for module, file in MODULES.items():
        tree = tree_of(file)
        defined, offered = defined_in(tree), offered_by(tree)
        assert offered is not None or all(name.startswith("_") for name in defined), f"{file}: write `__all__`"
        imported = {alias.asname or alias.name for node in tree.body for alias in getattr(node, "names", [])}
        lazy = {name for other, name in ELSEWHERE if other == module}
        assert (offered or set()) <= defined | imported | lazy, file


def test_other_rooms_take_only_what_is_offered():
    for module, name in taken_from_elsewhere():
        assert name in (offered_by(tree_of(MODULES[module])) or ()), f"add {name} to `__all__` of {module}"


def test_nothing_is_offered_that_nobody_takes():
    """Packages aside: their `__init__` offers what users take."""
    documented = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    taken = {*taken_from_elsewhere(), *ELSEWHERE, *((module, name) for module in KERNELS for name in KERNELS[module])}
    taken |= {*re.findall(r":: (ropo[\w.]+)\.(\w+)", documented)}
    for module, file in MODULES.items():
        if file.name != "__init__.py":
            idle = {name for name in offered_by(tree_of(file)) or () if (module, name) not in taken}
            assert not idle, f"{file}: take it out of `__all__`"


def test_functions_and_classes_that_only_their_own_file_names_have_an_underscore():
    words = {file: words_of(tree_of(file)) for file in [*FILES, *EXAMPLES, *BESIDE]}
    files_with = Counter(word for found in words.values() for word in found)
    for file in FILES:
        named = [node.name for node in tree_of(file).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        public = {name for name in named if not name.startswith("_")}
        own = {name for name in public if files_with[name] == (name in words[file])}
        assert not own - (offered_by(tree_of(file)) or set()), file


def test_one_class_a_name():
    """Two classes of one name are two meanings of one word: a reader takes one for the other."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, file in MODULES.items():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{module}:{node.lineno}")
    assert len(places) > 150
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_few_names_are_public():
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES)
    public = sum(len(offered_by(tree_of(file)) or ()) for file in FILES)
    assert 100 < public <= MOST_A_THOUSAND * lines / 1000
