"""`ropo compare` as it is typed: numbers and page, and a mistake before anything is written."""

from __future__ import annotations

from functools import partial

from ropo.cli.main import main
from ropo.comparison import execution
from ropo.comparison.results import read_comparison
from tests.comparison.tiny import InThisProcess, write_recipe
from tests.report.made import Page


def test_numbers_and_page_are_written(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(execution, "run_in_process_of_its_own", partial(run_here, InThisProcess()))
    hot = {"label": "hot", "method": "full", "learning_rate": 1e30, "max_grad_norm": 1e30}
    fine = {"label": "<i>fine</i>", "method": "lora", "learning_rate": 1e-3}
    parts = {"methods": [fine, {**hot, "lr_scheduler_type": "constant"}], "seeds": [0]}
    recipe = write_recipe(tmp_path, model, **parts)
    assert main(["compare", str(recipe), "--output", str(tmp_path / "out")]) == 0
    assert "report.html" in capsys.readouterr().out.splitlines()[-1]
    result = read_comparison(tmp_path / "out")
    assert [run.status for run in result.runs] == ["finished", "finished", "diverged"]
    assert result.runs[1].diagnosis_command[0] == "diagnose"
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "<i>fine</i>" in page.text
    assert page.text.count("training diverged: the loss is nan") >= 2
    shown = {value for _, value, _ in page.numbers}
    values = [m.value for s in result.suites for each in s.result.models for m in each.metrics if m.value is not None]
    assert len(values) > 20
    assert {repr(value) for value in values} <= shown


def test_a_run_that_failed_is_told_and_ends_with_1(model, tmp_path, capsys, monkeypatch):
    """The others are in the report; a script that goes on from there has to know."""
    monkeypatch.setattr(execution, "run_in_process_of_its_own", partial(run_here, InThisProcess()))
    broken = {"label": "broken", "method": "lora", "target_modules": ["q_prj"], "learning_rate": 1e-3}
    methods = [broken, {"label": "fine", "method": "lora", "learning_rate": 1e-3}]
    recipe = write_recipe(tmp_path, model, methods=methods, seeds=[0], diagnose=False)
    assert main(["compare", str(recipe), "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "report.html" in printed.out.splitlines()[-1]
    assert printed.err.splitlines()[-1].startswith("ropo compare: 1 of 3 runs failed")
    assert [run.status for run in read_comparison(tmp_path / "out").runs] == ["finished", "failed", "finished"]


def run_here(execute, command, log, kept_open=(), tell=None, ended=None):
    return execute(command, log)


def test_a_frontier_ends_with_tables_and_a_figure(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(execution, "run_in_process_of_its_own", partial(run_here, InThisProcess()))
    (tmp_path / "text.txt").write_text("the cat sat on a mat . one two " * 20, encoding="utf-8")
    methods = [
        {"label": name, "method": method, "learning_rate": 0.01}
        for name, method in (("LoRA", "lora"), ("RoPO", "ropo"))
    ]
    frontier = {"checkpoints": 2, "text": "text.txt", "window": 16, "windows": 2, "max_new_tokens": 3}
    parts = {"methods": methods, "seeds": [0], "diagnose": False, "frontier": frontier}
    recipe = write_recipe(tmp_path, model, evaluations=[{"suite": "preference"}], **parts)
    assert main(["compare", str(recipe), "--output", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"written to {tmp_path / 'out' / 'results.json'}, {tmp_path / 'out' / 'report.html'}, ")
    assert (tmp_path / "out" / "frontier.svg").is_file()
    assert any("left" in line for line in lines if line.startswith("[2/"))  # the first path, with the time to come
    text = "\n".join(lines)
    assert "toy: beside the untrained model, 95 % interval, n" in text
    assert "toy: change of each run where it gained most" in text
    assert all(any(line.split("│")[1:2] == [f" {name} 0.01, seed 0 "] for line in lines) for name in ("LoRA", "RoPO"))
    assert "toy: least cost at an equal gain" in text
    accuracy = next(line for line in lines if "accuracy (preference)" in line)
    assert accuracy.count("n=4") == 2  # both methods, on four pairs
