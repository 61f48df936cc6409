"""The arrows of the design, by syntax and by what a process has loaded: which room may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = sorted((SOURCE / "ropo").rglob("*.py"))

ABOVE_CORE = {
    *("adapter", "comparison", "diagnostics", "evaluation", "instructions", "judging", "lm", "methods", "models"),
    *("ops", "pairs", "preferences", "report", "runs", "training"),
}
# room: the rooms that it must not know
FORBIDDEN = {
    "core": ABOVE_CORE,
    "ops": ABOVE_CORE,
    "adapter": ABOVE_CORE - {"ops", "lm"},
    "preferences": ABOVE_CORE - {"preferences", "lm"},
    "training": {"adapter", "ops", "evaluation", "comparison", "report", "methods", "runs"},
    "runs": {"adapter", "ops", "evaluation", "comparison", "report", "judging", "pairs"},
    "judging": {"adapter", "ops", "runs", "training", "diagnostics", "methods", "comparison", "report", "pairs"},
    "pairs": {"adapter", "ops", "runs", "training", "diagnostics", "methods", "comparison", "report", "evaluation"},
    "evaluation": {"adapter", "ops", "runs", "training", "methods", "comparison", "report"},
    "comparison": {"adapter", "ops", "runs", "training", "report"},
    "report": {"adapter", "ops", "runs", "training", "instructions", "lm", "pairs", "preferences"},
}
CORE = [f"ropo.core.{file.stem}" for file in MODULES if file.parent.name == "core" and file.stem != "__init__"]
HEAVY = {"torch", "peft", "transformers", "trl", "datasets", "numpy", "pydantic"}
# what a process does: what it must have loaded, and what it must not
LOADED = {
    "import ropo": ("ropo", HEAVY | {"ropo.adapter"}),
    "import " + ", ".join(CORE): ("ropo.core.record", {"torch", "peft", "transformers", "trl", "datasets"}),
    "import ropo.ops": ("torch", {"transformers", "peft", "trl", "datasets"}),
    "from ropo import RopoConfig": ("ropo.adapter", {"trl", "datasets", "ropo.training", "ropo.evaluation"}),
    "from ropo.cli.main import main; main(['--help'])": ("ropo.cli.train", HEAVY | {"rich"}),
}
SUBCOMMANDS = (
    *("merge", "diagnose", "generate", "evaluate", "pairs", "compare", "path", "report", "env", "cache"),
    "completion",
)


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


def modules_after(code: str) -> set[str]:
    """Run code in a process of its own and return what it has loaded then, as `python -m ropo` would: no test hooks."""
    seen = "import sys; print(*sorted(sys.modules), sep='\\n', file=sys.stderr)"
    lines = ["import sys", f"sys.path.insert(0, {str(SOURCE)!r})", code, seen]
    command = [sys.executable, "-I", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("code", LOADED)
def test_what_a_process_has_loaded(code):
    loaded, (wanted, unwanted) = modules_after(code), LOADED[code]
    assert wanted in loaded
    assert not loaded & unwanted


def test_training_loads_no_adapter():
    """Nor what would register one: PEFT's own methods are trained by the same code."""
    waits = "[each for each in sys.meta_path if type(each).__module__ == 'ropo_autoload']"
    off = "import os\nos.environ['ROPO_NO_AUTOLOAD'] = '1'\n"  # PyTorch would make it wait again
    code = f"{off}import ropo\nfor finder in {waits}: sys.meta_path.remove(finder)\nimport ropo.training.trainer"
    loaded = modules_after(code)
    assert {"ropo.training.trainer", "peft"} <= loaded
    assert not {name for name in loaded if name.startswith(("ropo.adapter", "ropo.ops"))}


def test_help_of_the_commands_loads_nothing_heavy():
    """All in one process: what one loads, the next would find."""
    code = f"""from ropo.cli.main import available_commands, main
assert set(available_commands()) == {{"train", *{SUBCOMMANDS}}}
for name in {SUBCOMMANDS}:
    try:
        main([name, "--help"])
    except SystemExit:
        pass"""
    loaded = modules_after(code)
    assert "ropo.cli.env" in loaded
    assert not loaded & (HEAVY - {"pydantic"})  # whose fields are some commands' options; 0.1 s


TESTS = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(Path(__file__).parent.rglob("*.py"))}


def calls_in(node: ast.AST) -> set[str]:
    """Return the last names of what is called in a piece of code: `raises` of `pytest.raises(...)`."""
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def can_fail(node: ast.AST, checks: set[str]) -> bool:
    """Tell whether code asserts something about what it made, or calls what does."""
    asserts = [each.test for each in ast.walk(node) if isinstance(each, ast.Assert)]
    return any(not isinstance(test, ast.Constant) for test in asserts) or bool(calls_in(node) & checks)


def checks_of_files() -> dict[Path, set[str]]:
    """Return what checks in each file: pytest's and PyTorch's, and helpers that assert, of the file or imported."""
    known = {"raises", "warns", "fail", "assert_close", "assert_allclose", "assert_array_equal"}
    checks = {file: set(known) for file in TESTS}
    while True:
        before = sum(map(len, checks.values()))
        for file, tree in TESTS.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_"):
                    checks[file] |= {node.name} if can_fail(node, checks[file]) else set()
                elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests."):
                    source = SOURCE.parent / f"{node.module.replace('.', '/')}.py"
                    checks[file] |= {each.name for each in node.names} & checks.get(source, set())
        if sum(map(len, checks.values())) == before:
            return checks


def test_no_test_takes_from_another():
    assert len(TESTS) > 200
    for file, tree in TESTS.items():
        for node in ast.walk(tree):
            names = {f"{node.module}.{each.name}" for each in node.names} if isinstance(node, ast.ImportFrom) else set()
            assert not {name for name in names if name.startswith("tests.") and ".test_" in name}, file


def test_tiny_tokenizers_are_made_in_one_place():
    makers = {file for file, tree in TESTS.items() if "PreTrainedTokenizerFast" in calls_in(tree)}
    assert makers
    assert {file.parent.name for file in makers} == {"tiny"}


def test_every_test_can_fail():
    checks = checks_of_files()
    assert not can_fail(ast.parse("def test(): run()\nassert True"), checks[Path(__file__)] - {"run"})
    tests = [(file, node) for file, tree in TESTS.items() for node in ast.walk(tree)]
    tests = [each for each in tests if isinstance(each[1], ast.FunctionDef) and each[1].name.startswith("test_")]
    assert len(tests) > 1000
    assert not [f"{file}: {node.name}" for file, node in tests if not can_fail(node, checks[file])]
