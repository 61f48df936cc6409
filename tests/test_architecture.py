"""The arrows of the design: which room may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = sorted((SOURCE / "ropo").rglob("*.py"))

ABOVE_CORE = {
    *("adapter", "comparison", "diagnostics", "evaluation", "instructions", "judging", "lm", "methods", "models"),
    *("ops", "pairs", "preferences", "report", "training"),
}
# room: the rooms that it must not know
FORBIDDEN = {
    "core": ABOVE_CORE,
    "ops": ABOVE_CORE,
    "adapter": ABOVE_CORE - {"ops", "lm"},
    "preferences": ABOVE_CORE - {"preferences", "lm"},
    "training": {"adapter", "ops", "evaluation", "comparison", "report", "methods"},
    "judging": {"adapter", "ops", "training", "diagnostics", "methods", "comparison", "report", "pairs"},
    "pairs": {"adapter", "ops", "training", "diagnostics", "methods", "comparison", "report", "evaluation"},
    "evaluation": {"adapter", "ops", "training", "methods", "comparison", "report"},
    "comparison": {"adapter", "ops", "training", "report"},
    "report": {"adapter", "ops", "training", "instructions", "lm", "pairs", "preferences"},
}
# Pure torch: neither PEFT nor the model libraries.
PURE = {room: {"peft", "transformers", "trl", "datasets"} for room in ("ops",)}


def imports_of(file: Path) -> set[str]:
    """Return every module that a file imports, at its top or inside a function, with the names taken from it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE / "ropo").parts[0].removesuffix(".py")


def rooms_imported(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(file) if name.startswith("ropo.")}


def test_the_walk_sees_the_package():
    rooms = {room_of(file) for file in MODULES}
    assert set(FORBIDDEN) <= rooms
    assert len(MODULES) > 40
    assert "ropo.adapter.RopoConfig" in imports_of(SOURCE / "ropo" / "methods.py")
    assert rooms_imported(SOURCE / "ropo" / "cli" / "train.py") >= {"cli"}  # imports inside functions count


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_run_one_way(room):
    files = [file for file in MODULES if room_of(file) == room]
    assert files
    for file in files:
        assert not rooms_imported(file) & (FORBIDDEN[room] - {room}), file


def test_nobody_imports_the_command_line():
    files = [file for file in MODULES if room_of(file) not in ("cli", "__main__")]
    assert files
    for file in files:
        assert "cli" not in rooms_imported(file), file


def test_rotations_are_pure_torch():
    for room, libraries in PURE.items():
        files = [file for file in MODULES if room_of(file) == room]
        assert files
        for file in files:
            assert not {name.split(".")[0] for name in imports_of(file)} & libraries, file


def test_commands_import_nothing_heavy_before_they_run():
    from ropo.cli.main import available_commands

    heavy = {"torch", "transformers", "peft", "trl", "datasets", "pydantic", "numpy"}
    names = available_commands()
    assert "train" in names
    for name in names:
        tree = ast.parse((SOURCE / "ropo" / "cli" / f"{name}.py").read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert not {module.split(".")[0] for module in _names(top)} & heavy, name


def _names(tree: ast.Module) -> set[str]:
    return {
        name
        for node in tree.body
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
