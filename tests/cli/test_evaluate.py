"""`ropo evaluate`, whatever the suite: names, flags, missing libraries, the table."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from ropo.cli.extras import libraries_of
from ropo.cli.main import main
from ropo.core.errors import UserError
from ropo.core.intervals import Comparison, Estimate
from ropo.evaluation.results import Change, Metric, ModelResult, SuiteResult
from ropo.evaluation.suites import SUITES, Suite, load_suite
from ropo.evaluation.table import print_results, title_of


def one_error(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error:" in line]
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: SUITE"),
        (["preferense", "m"], "there is no suite 'preferense'; did you mean 'preference'?"),
        (["alpaca_eval", "m"], "there is no suite 'alpaca_eval'; did you mean 'alpaca-eval'?"),
        (
            ["xyz", "m"],
            "there is no suite 'xyz'; choose from preference, knowledge, diversity, instructions, "
            "strength, alpaca-eval, mt-bench",
        ),
        (["diversity", "--output", "o", "--prompts", "p"], "arguments are required: MODEL_OR_ADAPTER"),
        (["diversity", "m", "--prompts", "p"], "arguments are required: --output"),
    ],
)
def test_bad_command_lines(capsys, arguments, message):
    assert main(["evaluate", *arguments]) == 2
    assert message in one_error(capsys)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_there_with_its_help(name, capsys):
    assert isinstance(load_suite(name), Suite)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "MODEL_OR_ADAPTER" in shown
    assert load_suite(name).HELP.split()[0] in shown


@pytest.mark.parametrize("module", [*SUITES.values(), "ropo.evaluation.options"])
def test_help_loads_none_of_the_suites_libraries(module):
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "ropo.core.settings" in names
    light = {"ropo.core.errors", "ropo.core.files", "ropo.core.settings", "pydantic"}
    light |= {"ropo.judging.options", "ropo.evaluation.options"}
    assert {name for name in names if name.split(".")[0] not in sys.stdlib_module_names} <= light


def test_a_missing_library_is_named():
    advice = r"suite knowledge: needs the library lm_eval, which is not installed; pip install 'ropo\[evaluation\]'"
    with pytest.raises(UserError, match=advice), libraries_of("evaluation", "suite knowledge"):
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")
    with pytest.raises(ModuleNotFoundError), libraries_of("evaluation", "suite knowledge"):
        raise ModuleNotFoundError("No module named 'ropo.x'", name="ropo.x")


def test_the_table_shows_intervals_changes_and_notes(capsys):
    def model(name, value, *changes):
        accuracy = Metric.of("accuracy", Estimate(value, value - 0.1, value + 0.1, 9), "")
        metrics = [accuracy, Metric.of("bare", Estimate(None, None, None, 0), "")]
        return ModelResult(name=name, source=name, fingerprint=None, metrics=metrics, changes=list(changes))

    def change(low, high, p_value=None):
        return Change.against("base", "accuracy", Comparison(0.2, low, high, 9, p_value, None), "")

    models = [model("base", 0.5), model("sure", 0.7, change(0.1, 0.3, 0.04)), model("unsure", 0.7, change(-0.1, 0.5))]
    models.append(model("few", 0.7, change(0.1, 0.3, 0.25)))
    result = SuiteResult(suite="preference", settings={}, models=models, seed=0, notes=["read [this]"])
    print_results(result, Console(width=160))
    shown = capsys.readouterr().out
    accuracy, change_row, bare = (line.split("│")[1:-1] for line in shown.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in accuracy] == [
        "accuracy",
        "0.5 (0.4 to 0.6)",
        *["0.7 (0.6 to 0.8)"] * 3,
    ]
    assert [cell.strip() for cell in change_row] == [
        "change",
        "",
        "+0.2 (0.1 to 0.3) p=0.04 *",
        "+0.2 (-0.1 to 0.5)",
        "+0.2 (0.1 to 0.3) p=0.25",
    ]
    assert [cell.strip() for cell in bare] == ["bare", "-", "-", "-", "-"]
    assert "note: read [this]" in shown
    assert "preference; 95 % intervals; changes against base, * where interval and test exclude 0" in shown


def numbered(name, *changes):
    metrics = [Metric.of("accuracy", Estimate(0.5, 0.4, 0.6, 9), ""), Metric.of("margin", Estimate(1, 0, 2, 9), "")]
    found = [Change.against(reference, of, Comparison(0.2, 0.1, 0.3, 9), "") for of, reference in changes]
    return ModelResult(name=name, source=name, fingerprint=None, metrics=metrics, changes=found)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_width_of_a_terminal_cuts_a_number(capsys, width):
    names = ["base", *(f"longer-than-its-numbers-{number}" for number in range(5))]
    models = [numbered(name, ("accuracy", "base")) for name in names]
    print_results(SuiteResult(suite="s", settings={}, models=models, seed=0), Console(width=width))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert [shown.count(name) for name in names[1:]] == [1] * 5
    assert shown.count("0.5 (0.4 to 0.6)") == shown.count("+0.2 (0.1 to 0.3) *") == 6
    assert (shown.count("accuracy") == 1) == (width == 200)


def test_the_title_says_what_each_change_is_from():
    def title(*models):
        return title_of(SuiteResult(suite="s", settings={}, models=models, seed=0))

    assert title(numbered("one")) == "s; 95 % intervals"
    two = numbered("two", ("accuracy", "one"))
    three = numbered("three", ("accuracy", "one"), ("margin", "two"))
    wanted = "s; 95 % intervals; changes against one, of margin against two, * where interval and test exclude 0"
    assert title(numbered("one"), two, three) == wanted
