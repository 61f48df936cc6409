"""The parts of a comparison, each alone."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from ropo.comparison import execution
from ropo.comparison.bench import Bench, SideBySide
from ropo.comparison.cells import Cell, as_flags, evaluation_cell, path_cell, short_key, training_cell
from ropo.comparison.collect import merge_suite, read_curves
from ropo.comparison.data import prepare_data, split_by_prompt, steps_of
from ropo.comparison.execution import EndedCommand, locked, run_in_process_of_its_own
from ropo.comparison.frontier.options import Frontier
from ropo.comparison.pictures import pictured_layers
from ropo.comparison.reading import RecipeFile
from ropo.comparison.recipe import Budget, Evaluation
from ropo.comparison.selection import choose_rate, tried_rate
from ropo.core.errors import UserError
from ropo.core.intervals import Estimate
from ropo.evaluation.results import Metric, ModelResult, SuiteResult
from tests.comparison.tiny import write_recipe
from tests.tiny.sampled import save_tiny

PAIRS = [{"prompt": f"p{number // 2}", "chosen": f"c{number}", "rejected": "r"} for number in range(20)]


def test_a_prompt_is_on_one_side_of_the_split():
    train, validation = split_by_prompt(PAIRS, 0.2, seed=3)
    assert (len(train), len(validation)) == (16, 4)
    assert not {pair["prompt"] for pair in train} & {pair["prompt"] for pair in validation}
    assert sorted(pair["chosen"] for pair in train + validation) == sorted(pair["chosen"] for pair in PAIRS)
    assert split_by_prompt(PAIRS, 0.2, seed=3) == (train, validation)
    assert split_by_prompt(PAIRS, 0.2, seed=4) != (train, validation)
    with pytest.raises(UserError, match="leaves none to train on"):
        split_by_prompt(PAIRS, 0.99, seed=0)


def test_the_budget_sets_the_steps(tmp_path):
    model = save_tiny(tmp_path)
    pairs = [{"prompt": "the cat", "chosen": "sat on", "rejected": "ran"}] * 3
    # <user> the cat <eos> <assistant> - 1 + sat on <eos> + ran <eos> = 9 tokens, as training lays a pair out
    assert steps_of(Budget(pairs=9, batch_size=4), pairs, model, True) == 3
    assert steps_of(Budget(tokens=180, batch_size=4), pairs, model, True) == 5
    assert steps_of(Budget(tokens=1, batch_size=4), pairs, model, True) == 1


@pytest.mark.parametrize(("criterion", "chosen"), [("loss", 2.0), ("accuracy", 1.0), ("margin", 3.0)])
def test_each_criterion_chooses_its_own_best(criterion, chosen):
    margins = {1.0: [0.1, 0.1, 0.1], 2.0: [1.0, 1.0, -0.1], 3.0: [9.0, -4.0, -0.5]}
    found = [
        tried_rate(rate, "finished", [{"held_out": {"margins": values}}], criterion) for rate, values in margins.items()
    ]
    lost = tried_rate(4.0, "diverged", [], criterion)
    assert (lost.value, lost.status) == (None, "diverged")
    selection = choose_rate("toy", "RoPO", [*found, lost], criterion)
    assert selection.chosen == chosen
    assert all(each.low <= each.value <= each.high for each in found)
    expected = {"loss": np.log1p(np.exp(-0.1)), "accuracy": 1.0, "margin": 0.1}[criterion]
    assert found[0].value == pytest.approx(expected)


def test_of_equal_rates_and_where_none_finished_the_lowest_is_chosen():
    equal = [tried_rate(rate, "finished", [{"held_out": {"margins": [0.5]}}], "margin") for rate in (2.0, 1.0)]
    assert choose_rate("toy", "m", equal, "margin").chosen == 1.0
    lost = [tried_rate(rate, "diverged", [], "loss") for rate in (2.0, 1.0)]
    assert choose_rate("toy", "m", lost, "loss").chosen == 1.0


def test_flags():
    options = {"beta": 0.1, "names": ["a", "b"], "on": True, "off": False, "none": None, "low": -1}
    trained = ["--beta=0.1", "--names", "a", "b", "--on=true", "--off=false", "--low=-1"]
    assert as_flags(options) == trained
    assert as_flags(options, switches=True) == ["--beta=0.1", "--names", "a", "b", "--on", "--low=-1"]
    assert short_key("m", "d", {"a": 1, "b": 2}) == short_key("m", "d", {"b": 2, "a": 1})
    assert len({short_key("m", "d", {"a": 1}), short_key("m", "d", {"a": 2}), short_key("n", "d", {"a": 1})}) == 3


def test_cells_are_named_by_the_content_of_the_files_that_options_name(tmp_path):
    """A text that was changed is another text: what was measured on the former is no result on it."""
    text, copied = tmp_path / "text.txt", tmp_path / "copied.txt"
    recipe = RecipeFile(write_recipe(tmp_path, save_tiny(tmp_path / "model"))).recipe
    data = prepare_data(recipe, 0, tmp_path / "data")

    def outputs(file: Path) -> list[Path]:
        frontier = Frontier(text=str(file))
        training = recipe.model_copy(update={"training": {"anchor_text": str(file)}})
        asked = Evaluation(suite="knowledge", tasks=[str(file)], text=str(file))
        cell = training_cell(training, "m", data, recipe.methods[0], 1e-3, 0, tmp_path)
        plain = training_cell(recipe, "m", data, recipe.methods[0], 1e-3, 0, tmp_path)
        path = path_cell(recipe, frontier, data, plain, tmp_path)
        evaluation = evaluation_cell(recipe, data, asked, "reference", None, "m", tmp_path)
        return [cell.output, path.output, evaluation.output]

    text.write_text("the cat")
    copied.write_bytes(text.read_bytes())
    before = outputs(text)
    assert outputs(copied) == before
    text.write_text("the dog")
    assert all(now != then for now, then in zip(outputs(text), before, strict=True))


def test_paths_of_runs_with_another_beta_are_measured_with_that_of_all(tmp_path):
    recipe = RecipeFile(write_recipe(tmp_path, save_tiny(tmp_path / "model"))).recipe
    recipe = recipe.model_copy(update={"training": {"beta": 0.2}})
    data = prepare_data(recipe, 0, tmp_path / "data")
    other = recipe.methods[0].model_copy(update={"beta": 0.5})
    for method, told in ((recipe.methods[0], []), (other, ["--beta=0.2"])):
        training = training_cell(recipe, "m", data, method, 1e-3, 0, tmp_path)
        command = path_cell(recipe, Frontier(text="t"), data, training, tmp_path).command
        assert [flag for flag in command if flag.startswith("--beta")] == told


def test_prompts_may_be_in_any_file_that_is_read(tmp_path):
    recipe = RecipeFile(write_recipe(tmp_path, save_tiny(tmp_path / "model"))).recipe
    plain = tmp_path / "prompts.jsonl"
    packed = tmp_path / "prompts.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    keys = set()
    for prompts in (plain, packed):
        data = recipe.data[0].model_copy(update={"prompts": str(prompts)})
        keys.add(prepare_data(recipe.model_copy(update={"data": [data]}), 0, tmp_path / "made").held_out)
    assert len(keys) == 2


def test_curves_have_no_nan_and_no_step_twice(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}, {"step": 2, "eval": 1.0}, {"step": 2, "loss": 0.3}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "loss": NaN, "word": "x"}\n'
    file.write_text(text)
    assert read_curves(file) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.3},
        {"step": 2, "eval": 1.0},
        {"step": 3, "loss": None},
    ]


def suite(*names: str, note: str) -> SuiteResult:
    metric = Metric.of("m", Estimate(0.5, 0.4, 0.6, 9), "")
    models = [ModelResult(name=name, source=name, fingerprint=None, metrics=[metric]) for name in names]
    return SuiteResult(suite="s", settings={}, models=models, notes=["all", note], seed=0, command=list(names))


def test_suites_are_merged():
    runs = {"a": suite("ref", "a", note="x"), "b": suite("ref", "b", note="y")}
    merged = merge_suite("toy", suite("ref", note="x"), runs)
    assert [model.name for model in merged.result.models] == ["ref", "a", "b"]
    assert merged.commands == {"ref": ["ref"], "a": ["ref", "a"], "b": ["ref", "b"]}
    assert merged.result.notes == ["all", "ref, a: x", "b: y"]
    assert [model.name for model in merge_suite("toy", None, runs).result.models] == ["ref", "a", "b"]
    assert merge_suite("toy", None, {}) is None


def test_layers_are_first_middle_and_last_of_each_adapted_kind():
    names = [f"layers.{number}.{kind}" for number in range(5) for kind in ("q_proj", "k_proj", "v_proj")]
    chosen = pictured_layers(names, "llama")
    assert chosen == [f"layers.{number}.{kind}" for kind in ("q_proj", "v_proj") for number in (0, 2, 4)]
    assert pictured_layers(["odd"], "unheard-of") == ["odd"]


def test_the_bench_tells_how_far_it_is(tmp_path):
    def execute(command, log):
        (tmp_path / command[0]).mkdir()
        (tmp_path / command[0] / "run.json").touch()
        return EndedCommand(0, "")

    lines: list[str] = []
    bench = Bench(tmp_path, execute, Counter(train=2, evaluate=1), lines.append, SideBySide())
    cell = Cell("train", "one", ("one",), tmp_path / "one")
    assert bench.do(cell).status == "finished"
    assert lines[0] == "[1/3] train one ..."
    assert lines[1].startswith("[1/3] train one: done in 0:00:00; more than 0:00:00 left")
    assert bench.do(cell).status == "finished"
    assert lines[2] == "[2/3] train one: is there already"
    refuse = lambda command, log: EndedCommand(2, "ropo train: error: no")  # noqa: E731
    failing = Bench(tmp_path, refuse, Counter(train=1), lines.append, SideBySide())
    end = failing.do(Cell("train", "two", ("two",), tmp_path / "two"))
    assert (end.status, end.reason) == ("failed", "no")


def test_the_bench_does_cells_side_by_side(tmp_path):
    together = Barrier(2, timeout=60)

    def execute(command, log):
        together.wait()  # raises unless the other one runs too
        (tmp_path / command[0]).mkdir()
        (tmp_path / command[0] / "run.json").touch()
        return EndedCommand(0, "")

    lines: list[str] = []
    bench = Bench(tmp_path, execute, Counter(train=2), lines.append, SideBySide(2))
    ends = bench.do_all(Cell("train", name, (name,), tmp_path / name) for name in ("one", "two"))
    assert [end.status for end in ends] == ["finished", "finished"]
    assert sorted(line[:5] for line in lines) == ["[1/2]", "[1/2]", "[2/2]", "[2/2]"]
    assert lines[-1].endswith("about 0:00:00 left")


def test_what_runs_side_by_side_ends_together(tmp_path, monkeypatch):
    side, begun, start, log = SideBySide(2), Barrier(2, timeout=60), subprocess.Popen, tmp_path / "log"
    # a shell's background jobs start without an interrupt's usual end
    code = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "print(1, flush=True); time.sleep(60)"
    monkeypatch.setattr(subprocess, "Popen", lambda _, **rest: start([sys.executable, "-c", code], **rest))
    done = []

    def work(number):
        done.append(number)
        begun.wait()
        if number == 0:
            while not (log.exists() and log.read_text()):
                time.sleep(0.05)
            raise UserError("the first one failed")
        run_in_process_of_its_own([], log, ended=side.ended)

    started = time.monotonic()
    with pytest.raises(UserError, match="first one"):
        side.map(work, range(4))
    assert time.monotonic() - started < 30
    assert sorted(done) == [0, 1]  # the others were not begun


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs(jobs):
    with pytest.raises(UserError, match="jobs: must be at least 1, got"):
        SideBySide(jobs)


def test_a_command_runs_in_a_process_of_its_own(tmp_path):
    outcome = run_in_process_of_its_own(["there-is-no-such-command"], tmp_path / "logs" / "x.log")
    assert outcome.status == 2
    assert outcome.last_line.startswith("ropo: error: there is no command")


def test_a_command_that_takes_long_is_told_of_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_FIRST", 0.2)
    start = subprocess.Popen
    code = "import time; print('step 1', flush=True); time.sleep(1.2)"
    monkeypatch.setattr(subprocess, "Popen", lambda _, **rest: start([sys.executable, "-c", code], **rest))
    lines: list[str] = []
    assert run_in_process_of_its_own([], tmp_path / "log", tell=lambda log, line: lines.append(line)).status == 0
    assert 2 <= len(lines) <= 4  # after 0.2, 0.6 and 1.4 seconds, while it runs
    assert lines[-1].endswith(": step 1")


def test_one_comparison_a_folder_also_while_an_orphan_still_writes(tmp_path):
    with locked(tmp_path) as lock:
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock,))
    try:
        with pytest.raises(UserError, match="still writes there"), locked(tmp_path):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with locked(tmp_path):
        pass


def test_an_interrupt_reaches_the_command(tmp_path):
    """The parent alone is interrupted; its command ends, and both are gone."""
    program = (
        "import sys, pathlib, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs start without
        "from ropo.comparison import execution\n"
        "code = 'import time; print(1, flush=True); time.sleep(60)'\n"
        "start = execution.subprocess.Popen\n"
        "execution.subprocess.Popen = lambda args, **rest: start([sys.executable, '-c', code], **rest)\n"
        f"execution.run_in_process_of_its_own([], pathlib.Path({str(tmp_path / 'log')!r}))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGINT)
    started = time.monotonic()
    _, errors = parent.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert "KeyboardInterrupt" in errors
    assert "KeyboardInterrupt" in Path(log).read_text()
