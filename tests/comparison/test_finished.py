"""Pages of runs that were made one by one: what belongs together, what does not, and mistakes."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ropo.cli.main import main
from ropo.comparison.finished import read_finished
from ropo.comparison.summary import methods_of
from ropo.core.errors import UserError
from ropo.evaluation.results import read_results
from ropo.report import render_page
from ropo.report.tables import summary_rows
from tests.cli.conftest import train, write_pairs
from tests.report.made import Page, make_result
from tests.tiny.sampled import save_tiny

PLAIN = ("--monitor_steps", 0, "--logging_steps", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs of two methods on the same pairs, one run on others, an evaluation and a diagnosis."""
    folder = tmp_path_factory.mktemp("made")
    model = save_tiny(folder / "model")
    pairs = write_pairs(folder / "pairs.jsonl")
    others = write_pairs(folder / "others.jsonl", json.loads("[" + ",".join(pairs.read_text().splitlines()[:2]) + "]"))
    for name, data, flags in (
        ("ropo-0", pairs, ("--seed", 0)),
        ("ropo-1", pairs, ("--seed", 1)),
        ("lora", pairs, ("--method", "lora")),
        ("lora-hot", pairs, ("--method", "lora", "--learning_rate", 0.1)),
        ("elsewhere", others, ("--seed", 0)),
    ):
        assert train(model, data, folder / name, *PLAIN, *flags) == 0
    runs = [str(folder / name) for name in ("ropo-0", "lora", "elsewhere")]
    evaluation = ["evaluate", "preference", model, *runs, "--data", str(pairs), "--output", str(folder / "evaluated")]
    assert main(evaluation) == 0
    assert main(["diagnose", runs[0], "--output", str(folder / "diagnosis.json")]) == 0
    return folder


NAMES = ("ropo-0", "ropo-1", "lora", "lora-hot", "elsewhere")


def test_runs_are_sorted_by_data_method_and_seed(made):
    result = read_finished([made / name for name in NAMES])
    assert [(run.name, run.method, run.seed) for run in result.runs] == [
        ("pairs/ropo/seed0", "ropo", 0),
        ("pairs/ropo/seed1", "ropo", 1),
        ("pairs/lora (lora)/seed42", "lora (lora)", 42),
        ("pairs/lora (lora-hot)/seed42", "lora (lora-hot)", 42),
        ("others/ropo/seed0", "ropo", 0),
    ]
    assert {run.data for run in result.runs} == {"pairs", "others"}
    assert [run.learning_rate for run in result.runs][2:4] == [5e-4, 0.1]
    assert all(run.record.status == run.status == "finished" and len(run.curves) >= 2 for run in result.runs)


def test_evaluations_and_diagnoses_are_matched(made):
    places = [made / name for name in NAMES] + [made / "evaluated", made / "diagnosis.json"]
    result = read_finished(places, "Mine")
    assert result.title == "Mine"
    assert [run.name for run in result.runs if run.method == "reference"] == ["pairs/reference", "others/reference"]
    suites = {suite.data: suite.result for suite in result.suites}
    assert [model.name for model in suites["pairs"].models] == [
        "pairs/reference",
        "pairs/ropo/seed0",
        "pairs/lora (lora)/seed42",
    ]
    assert [model.name for model in suites["others"].models] == ["others/reference", "others/ropo/seed0"]
    original = read_results(made / "evaluated")
    assert suites["pairs"].models[1].metrics == original.models[1].metrics
    assert {change.reference for change in suites["others"].models[1].changes} == {"others/reference"}
    assert [run.name for run in result.runs if run.diagnosis] == ["pairs/ropo/seed0"]
    assert result.notes == []


def test_a_change_from_another_run_is_none_from_the_untrained_model(made, tmp_path):
    """Runs that were evaluated without the untrained model are compared with the first of them."""
    runs = [str(made / name) for name in ("ropo-0", "lora")]
    flags = ["--data", str(made / "pairs.jsonl"), "--output", str(tmp_path / "two")]
    assert main(["evaluate", "preference", *runs, *flags]) == 0
    result = read_finished([*(made / name for name in ("ropo-0", "lora")), tmp_path / "two"])
    (suite,) = result.suites
    assert {change.reference for change in suite.result.models[1].changes} == {"pairs/ropo/seed0"}
    columns, rows = summary_rows(result, "pairs", methods_of(result, "pairs"))
    assert [row.method.method for row in rows] == ["ropo", "lora"]
    assert columns
    assert all(cell.estimate.value is not None and cell.change is None for row in rows for cell in row.cells)
    page = Page(render_page(result)).text
    assert "change from pairs/ropo/seed0" in page
    beside = read_finished([made / "ropo-0", made / "evaluated"])
    assert "change from" not in Page(render_page(beside)).text.replace("change from the untrained model", "")


def test_another_model_is_not_the_untrained_one(made, tmp_path):
    """A first model that is neither a run nor their base model keeps its name, and changes are from that."""
    flags = ["--reference", str(made / "model"), "--data", str(made / "pairs.jsonl"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", "preference", f"tuned={made / 'lora-hot'}", str(made / "ropo-0"), *flags]) == 0
    result = read_finished([made / "ropo-0", tmp_path / "out"])
    assert [run.name for run in result.runs] == ["pairs/ropo/seed0"]
    assert result.notes == ["preference: its first model, tuned, is not the base model of pairs's runs"]
    (suite,) = result.suites
    assert {change.reference for change in suite.result.models[0].changes} == {"tuned"}
    assert "before training)" not in Page(render_page(result)).text.replace("0 before training)", "")


def test_runs_of_different_base_models_are_no_seeds_of_one_method(made, tmp_path):
    other = save_tiny(tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    save_file({name: 1.01 * each for name, each in load_file(file).items()}, file, {"format": "pt"})
    assert train(other, made / "pairs.jsonl", tmp_path / "run", *PLAIN, "--seed", 1) == 0
    result = read_finished([made / "ropo-0", tmp_path / "run"])
    assert [(run.name, run.data) for run in result.runs] == [
        ("pairs on model/ropo/seed0", "pairs on model"),
        ("pairs on other/ropo/seed1", "pairs on other"),
    ]
    assert "pairs on other" in Page(render_page(result)).text


def test_a_rerun_is_no_further_seed(made, tmp_path):
    shutil.copytree(made / "ropo-0", tmp_path / "copy")
    result = read_finished([made / "ropo-0", made / "ropo-1", tmp_path / "copy"])
    assert [run.name for run in result.runs] == ["pairs/ropo/seed0", "pairs/ropo/seed1"]
    (note,) = result.notes
    assert note.startswith(f"{tmp_path / 'copy'} has settings, data and seed of {made / 'ropo-0'}")


def test_a_run_without_its_whole_journal_is_shown_all_the_same(made, tmp_path):
    for name, cut in (("torn", '{"step": 1}\n{"st'), ("gone", None)):
        run = shutil.copytree(made / "ropo-0", tmp_path / name)
        (run / "metrics.jsonl").unlink() if cut is None else (run / "metrics.jsonl").write_text(cut)
        assert [dict(line) for line in read_finished([run]).runs[0].curves] == ([] if cut is None else [{"step": 1}])
    (tmp_path / "torn" / "metrics.jsonl").write_text('{"st\n{"step": 1}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:1: is no JSON"):
        read_finished([tmp_path / "torn"])


def test_a_merged_model_is_no_run(made, tmp_path):
    assert main(["merge", str(made / "ropo-0"), "--output", str(tmp_path / "merged")]) == 0
    with pytest.raises(UserError, match="merged: is no run of `ropo train`"):
        read_finished([tmp_path / "merged"])


def test_what_belongs_to_no_run_is_told(made):
    result = read_finished([made / "lora-hot", made / "evaluated", made / "diagnosis.json"])
    assert result.suites == []
    assert "preference: " in result.notes[0]
    assert "is left out" in result.notes[0]
    assert result.notes[1].endswith("is of none of the runs")


def test_an_adapter_at_strengths_is_no_comparison(made, tmp_path):
    """Its first model is the adapter nearest its base, and no reference of a comparison."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat . " * 20)
    flags = ["--data", str(made / "pairs.jsonl"), "--text", str(tmp_path / "text.txt"), "--strengths", "0.5", "1"]
    assert main(["evaluate", "strength", str(made / "lora-hot"), *flags, "--output", str(tmp_path / "turned")]) == 0
    result = read_finished([made / "lora-hot", tmp_path / "turned"])
    assert result.suites == []
    assert result.notes == ["strength: its curves are in the strength.svg of its own folder, and it is left out here"]


def test_a_copied_run_is_known_by_its_content(made, tmp_path):
    shutil.copytree(made / "ropo-0", tmp_path / "copy")
    result = read_finished([tmp_path / "copy", made / "evaluated"])
    assert [model.name for model in result.suites[0].result.models] == ["pairs/reference", "pairs/ropo/seed0"]


def test_a_comparison_goes_alone(made, tmp_path):
    whole = make_result()
    whole.write(tmp_path)
    assert read_finished([tmp_path]) == read_finished([tmp_path / "results.json"]) == whole
    assert read_finished([tmp_path], "Other").title == "Other"
    with pytest.raises(UserError, match="goes alone"):
        read_finished([tmp_path, made / "lora"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "there is no such place"), ("pairs.jsonl", "is not a folder of"), ("evaluated", "no finished run of")],
)
def test_other_places_are_refused(made, name, message):
    with pytest.raises(UserError, match=message):
        read_finished([made / name])


def test_the_command_writes_a_page(made, tmp_path, capsys):
    places = [str(made / name) for name in ("ropo-0", "ropo-1", "lora", "evaluated", "diagnosis.json")]
    file = tmp_path / "page.html"
    assert main(["report", *places, "--output", str(file), "--title", "<b>Mine</b>"]) == 0
    page = Page(file.read_text(encoding="utf-8"))
    assert "<b>Mine</b>" in page.text
    metric = read_results(made / "evaluated").models[1].metric("margin")
    assert repr(metric.value) in {value for _, value, _ in page.numbers}
    capsys.readouterr()
    assert main(["report", *places, "--output", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ropo report: error: ")
    assert "add --overwrite" in line
    assert main(["report", *places, "--output", str(file), "--overwrite"]) == 0
    assert main(["report", *places, "--output", str(tmp_path)]) == 2


def test_a_missing_library_is_named(tmp_path, monkeypatch, capsys):
    import sys

    for name in [name for name in sys.modules if name == "plotly" or name.startswith(("plotly.", "ropo.report"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["report", "somewhere", "--output", str(tmp_path / "page.html")]) == 2
    assert "pip install 'ropo[report]'" in capsys.readouterr().err
