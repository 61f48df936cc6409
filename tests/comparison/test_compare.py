"""A whole comparison of tiny models: what it holds, that it can be made again, and that nothing stops it."""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from ropo.comparison.execution import EndedCommand
from ropo.comparison.results import read_comparison
from tests.comparison.tiny import InThisProcess, numbers, run_comparison, write_recipe

RUNS = ["toy/reference", "toy/ropo/seed0", "toy/ropo/seed1", "toy/full/seed0", "toy/full/seed1"]
TRAININGS = 2 + 1 + 2  # two rates and one more seed; two seeds
EVALUATIONS = 2 * len(RUNS) - 1  # on pairs the reference is measured beside each run
DIAGNOSES = 4


def compared(write, model, folder, **options):
    """Run a comparison; return it, its folder and the commands that it ran."""
    execute = InThisProcess()
    return run_comparison(write(folder, model), folder / "out", execute, **options), folder, execute.commands


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A comparison, its folder and the commands that it ran."""
    return compared(write_recipe, model, tmp_path_factory.mktemp("whole"))


def close(found, expected, where="result") -> int:
    """Assert that two JSON values are equal, numbers to 1e-6, and count the numbers."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        return sum(close(found[name], expected[name], f"{where}.{name}") for name in expected)
    if isinstance(expected, list):
        assert len(found) == len(expected), where
        return sum(close(a, b, f"{where}[{n}]") for n, (a, b) in enumerate(zip(found, expected, strict=True)))
    if isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6), (where, found, expected)
        return 1
    assert found == expected, where
    return 0


def test_the_result_holds_every_run(whole, tmp_path):
    result, _, commands = whole
    assert [run.name for run in result.runs] == RUNS
    assert {run.status for run in result.runs} == {"finished"}
    kinds = [command[0] for command in commands]
    assert [kinds.count(kind) for kind in ("train", "evaluate", "diagnose")] == [TRAININGS, EVALUATIONS, DIAGNOSES]
    for run in result.runs[1:]:
        assert run.command in commands
        assert f"--seed={run.seed}" in run.command
        assert [entry["step"] for entry in run.curves if "loss" in entry] == [1, 2]
        assert run.record.metrics["trainable_parameters"] > 0
        assert run.record.metrics["held_out"]["pairs"] == 2  # two of eight prompts
        assert run.diagnosis.summary.energy_change is not None
        assert run.neurons.before != run.neurons.after
        assert sum(run.cosines[0].before) == sum(run.cosines[0].after) > 0
    assert result.runs[0].record is None
    result.write(tmp_path)
    assert read_comparison(tmp_path) == result


def test_suites_compare_every_run_with_the_reference(whole):
    result = whole[0]
    assert [each.result.suite for each in result.suites] == ["preference", "instructions"]
    for suite in result.suites:
        assert [model.name for model in suite.result.models] == RUNS
        assert list(suite.commands) == RUNS
        for model in suite.result.models[1:]:
            assert {change.reference for change in model.changes} == {RUNS[0]}
    margins = [model.metric("margin").value for model in result.suites[0].result.models[1:]]
    assert all(margin > 0 for margin in margins)


def test_all_runs_are_measured_with_one_beta_and_one_cut(model, tmp_path):
    """The untrained model is cut as the runs are, and a run that trained with another beta has margins like theirs."""
    methods = [
        {"label": label, "method": "lora", "learning_rate": 1e-3, "beta": beta}
        for label, beta in (("weak", 0.1), ("strong", 0.5))
    ]
    training = {"use_cpu": True, "monitor_steps": 0, "max_length": 9, "truncation_mode": "keep_end"}
    changes = {"methods": methods, "training": training, "seeds": [0], "evaluations": [{"suite": "preference"}]}
    result = run_comparison(write_recipe(tmp_path, model, **changes), tmp_path / "out")
    (suite,) = result.suites
    assert (suite.result.settings["beta"], suite.result.settings["max_length"]) == (0.1, 9)
    reference, weak, strong = suite.result.models
    before = reference.metric("chosen_log_prob").value
    for each in (weak, strong):
        gain = each.metric("chosen_gain").value
        assert each.metric("chosen_log_prob").value - before == pytest.approx(gain, abs=1e-6)
        gains = gain - each.metric("rejected_gain").value
        assert each.metric("margin").value == pytest.approx(0.1 * gains, rel=1e-6)
    assert "margins and DPO losses are measured with beta 0.1; trained otherwise: strong with 0.5" in result.notes


def test_samples_stand_side_by_side(whole):
    result = whole[0]
    assert [sample.prompt for sample in result.samples] == ["the cat sat", "one two"]
    for sample in result.samples:
        assert list(sample.answers) == list(sample.passed) == RUNS
        assert sample.passed == {name: len(text.split()) <= 3 for name, text in sample.answers.items()}


def test_the_rate_is_chosen_on_validation_pairs(whole):
    result = whole[0]
    (selection,) = result.selections
    values = {each.learning_rate: each.value for each in selection.candidates}
    assert selection.chosen == min(values, key=values.get)
    assert [run.learning_rate for run in result.runs[1:3]] == [selection.chosen] * 2
    held_out = result.runs[1].record.metrics["held_out"]
    assert values[selection.chosen] == pytest.approx(held_out["loss"], abs=1e-6)  # that in float32


def test_a_finished_comparison_is_not_redone(whole, model):
    result, folder, _ = whole
    execute = InThisProcess()
    again = run_comparison(folder / "recipe.yaml", folder / "out", execute)
    assert execute.commands == []
    assert again.runs == result.runs
    assert again.suites == result.suites


def test_the_same_recipe_gives_the_same_numbers(whole, model, tmp_path):
    again = run_comparison(write_recipe(tmp_path, model), tmp_path / "out")
    assert close(numbers(again), numbers(whole[0])) > 1000


def test_removing_a_run_leaves_the_others(whole, model, tmp_path):
    full = [{"label": "full", "method": "full", "learning_rate": 0.001}]
    less = run_comparison(write_recipe(tmp_path, model, methods=full, seeds=[0]), tmp_path / "out")
    assert [run.name for run in less.runs] == ["toy/reference", "toy/full/seed0"]
    wanted, found = (numbers(result) for result in (whole[0], less))
    for run in found["runs"]:
        close(run, next(each for each in wanted["runs"] if each["name"] == run["name"]))
    for number, suite in enumerate(found["suites"]):
        models = {each["name"]: each for each in wanted["suites"][number]["result"]["models"]}
        assert len(suite["result"]["models"]) == 2
        for each in suite["result"]["models"]:
            assert close(each, models[each["name"]]) > 3


def test_what_diverges_or_fails_stops_nothing(model, tmp_path):
    reckless = {"max_grad_norm": 1e30, "lr_scheduler_type": "constant"}
    methods = [
        {"label": "hot", "method": "full", "learning_rate": 1e30, **reckless},
        {"label": "swept", "method": "full", "learning_rates": [1e-3, 1e30], **reckless},
        {"label": "broken", "method": "lora", "target_modules": ["q_prj"], "learning_rate": 1e-3},
        {"label": "fine", "method": "lora", "use_dora": True, "learning_rate": 1e-3},
    ]
    recipe = write_recipe(tmp_path, model, methods=methods, seeds=[0], evaluations=[{"suite": "preference"}])
    result = run_comparison(recipe, tmp_path / "out")
    status = {run.name.split("/")[1]: run.status for run in result.runs}
    assert status == {
        "reference": "finished",
        "hot": "diverged",
        "swept": "finished",
        "broken": "failed",
        "fine": "finished",
    }
    reasons = {run.name.split("/")[1]: run.reason for run in result.runs}
    assert reasons["hot"].startswith("training diverged")
    assert "\n" not in reasons["broken"]
    assert reasons["broken"].startswith("target_modules: ")
    assert [each.status for each in result.selections[0].candidates] == ["finished", "diverged"]
    assert [each.value is None for each in result.selections[0].candidates] == [False, True]
    names = ["toy/reference", "toy/swept/seed0", "toy/fine/seed0"]
    assert [model.name for model in result.suites[0].result.models] == names
    execute = InThisProcess()
    again = run_comparison(recipe, tmp_path / "out", execute)
    assert [command[0] for command in execute.commands] == ["train"]  # only what failed is tried again
    assert again.runs == result.runs


def test_a_killed_comparison_goes_on_with_the_first_unfinished_cell(model, tmp_path):
    class Killed(InThisProcess):
        def __call__(self, command, log):
            if len(self.commands) == 2:
                self.next = command
                raise KeyboardInterrupt
            return super().__call__(command, log)

    changes = {"seeds": [0], "evaluations": [], "diagnose": False}
    recipe = write_recipe(tmp_path, model, **changes)
    first, second = Killed(), InThisProcess()
    with pytest.raises(KeyboardInterrupt):
        run_comparison(recipe, tmp_path / "out", first)
    third = first.next[first.next.index("--output") + 1]
    Path(f"{third}.incomplete").mkdir()  # what a killed run leaves
    result = run_comparison(recipe, tmp_path / "out", second)
    assert [len(first.commands), len(second.commands)] == [2, 1]
    assert second.commands[0] == [*first.next, "--resume"]
    assert "--method=full" in first.next
    assert {run.status for run in result.runs} == {"finished"}


def test_a_changed_recipe_keeps_what_it_still_has(whole, model, tmp_path):
    _, folder, _ = whole
    content = yaml.safe_load((folder / "recipe.yaml").read_text())
    content["methods"][1]["learning_rate"] = 0.002
    changed = folder / "changed.yaml"
    changed.write_text(yaml.safe_dump(content))
    execute = InThisProcess()
    result = run_comparison(changed, folder / "out", execute)
    trained = [command for command in execute.commands if command[0] == "train"]
    assert len(trained) == 2
    assert all("--learning_rate=0.002" in command for command in trained)
    assert {run.learning_rate for run in result.runs[3:]} == {0.002}


FRONTIER = {"checkpoints": 2, "text": "text.txt", "window": 16, "windows": 2, "pairs": 4, "prompts": 3}


def frontier_recipe(folder: Path, model: str, **changes) -> Path:
    """Write a recipe of one method at two rates with two seeds, along whose runs is measured."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("the cat sat on a mat . one two " * 20, encoding="utf-8")
    methods = [
        {"label": "LoRA", "method": "lora", "learning_rates": [0.001, 0.01]},
        {"label": "RoPO", "method": "ropo", "learning_rate": 0.01},
    ]
    parts = {"methods": methods, "evaluations": [], "diagnose": False, "frontier": {**FRONTIER, "max_new_tokens": 4}}
    return write_recipe(folder, model, **{**parts, **changes})


@pytest.fixture(scope="module")
def frontier(model, tmp_path_factory):
    """A comparison with a frontier, its folder and the commands that it ran."""
    return compared(frontier_recipe, model, tmp_path_factory.mktemp("frontier"))


def test_side_by_side_it_is_the_same_comparison(frontier, whole, model, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # for commands in threads, here only
    for name, write, (result, _, commands) in (("path", frontier_recipe, frontier), ("all", write_recipe, whole)):
        (tmp_path / name).mkdir()
        found, _, again = compared(write, model, tmp_path / name, jobs=3)
        assert close(numbers(found), numbers(result)) > 100
        assert len(again) == len(commands)


def test_a_frontier_measures_every_rate_with_every_seed(frontier, tmp_path):
    result, _, commands = frontier
    kinds = [command[0] for command in commands]
    assert (kinds.count("train"), kinds.count("path"), len(kinds)) == (2 * 2 + 2, 2 * 2 + 2, 12)
    known = [(path.method, path.seed, path.learning_rate) for path in result.paths]
    assert known == [
        *(("LoRA", seed, rate) for seed in (0, 1) for rate in (0.001, 0.01)),
        *(("RoPO", seed, 0.01) for seed in (0, 1)),
    ]
    assert all([point.step for point in each.path.points] == [1, 2] for each in result.paths)
    assert all(point.answers is not None for each in result.paths for point in each.path.points)
    first = result.paths[0].path
    assert all(each.path.reference == first.reference for each in result.paths)
    assert {each.against for each in result.equal_gains} == {"LoRA"}  # the first
    assert {each.method for each in result.equal_gains} == {"RoPO"}
    assert [run.name for run in result.runs] == [
        "toy/reference",
        *(f"toy/{m}/seed{s}" for m in ("lora", "ropo") for s in (0, 1)),
    ]
    result.write(tmp_path)
    assert read_comparison(tmp_path) == result


def test_the_rate_of_a_frontier_is_chosen_with_all_seeds_and_never_on_test_pairs(frontier):
    result, _, commands = frontier
    (selection,) = result.selections
    runs = [run for run in result.runs if run.method == "LoRA"]
    assert {run.learning_rate for run in runs} == {selection.chosen}
    chosen = next(each for each in selection.candidates if each.learning_rate == selection.chosen)
    losses = [run.record.metrics["held_out"]["loss"] for run in runs]
    assert chosen.value == pytest.approx(sum(losses) / 2, abs=1e-6)
    trainings = [" ".join(command) for command in commands if command[0] == "train"]
    assert len(trainings) == 6
    assert not any("test.jsonl" in each for each in trainings)


def test_runs_of_a_sweep_are_taken_over_when_their_recipe_gets_a_frontier(model, tmp_path):
    """The checkpoints may stand in `training`: the same options, whoever says them, are the same run."""
    saving = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    training = {"use_cpu": True, "monitor_steps": 0, "logging_steps": 1}
    early = frontier_recipe(tmp_path, model, seeds=[0], frontier=None, training={**training, **saving})
    first, second = InThisProcess(), InThisProcess()
    run_comparison(early, tmp_path / "early", first)
    assert [command[0] for command in first.commands] == ["train"] * 3
    (tmp_path / "out" / "runs").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "toy").symlink_to(tmp_path / "early" / "runs" / "toy")
    less = {**FRONTIER, "prompts": 1, "max_new_tokens": 2, "keep_checkpoints": False}
    late = frontier_recipe(tmp_path, model, seeds=[0], frontier=less)
    result = run_comparison(late, tmp_path / "out", second)
    assert [command[0] for command in second.commands] == ["path"] * 3
    assert all(each.path is not None for each in result.paths)
    assert not list((tmp_path / "early").rglob("checkpoint-*"))  # measured, and not to be kept
    third = InThisProcess()
    assert run_comparison(late, tmp_path / "out", third).paths == result.paths
    assert third.commands == []


def test_a_run_that_diverges_or_is_not_measured_leaves_its_reason(model, tmp_path):
    hot = {"label": "hot", "method": "full", "learning_rates": [1e-3, 1e30], "max_grad_norm": 1e30}
    recipe = frontier_recipe(tmp_path, model, seeds=[0], methods=[{**hot, "lr_scheduler_type": "constant"}])
    result = run_comparison(recipe, tmp_path / "out")
    fine, diverged = result.paths
    assert (fine.status, fine.path is None) == ("finished", False)
    assert (diverged.status, diverged.path) == ("diverged", None)
    assert diverged.reason.startswith("training diverged")

    class NoPath(InThisProcess):
        def __call__(self, command, log):
            return EndedCommand(1, "it was killed") if command[0] == "path" else super().__call__(command, log)

    shutil.rmtree(tmp_path / "out" / "paths")
    (lost, _) = run_comparison(recipe, tmp_path / "out", NoPath()).paths
    assert (lost.status, lost.path) == ("finished", None)
    assert lost.reason == "it could not be measured along its way: it was killed"
