"""The demo from end to end on a tiny model. The run on the real one needs minutes: `make demo`."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from ropo.core.record import read_record
from ropo.evaluation.results import read_results
from ropo.lm.sampling import SamplingSettings, read_prompts
from tests.tiny.sampled import save_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = spec_from_file_location("demo", EXAMPLES / "demo.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", tmp_path / "demo")
    monkeypatch.setattr(module, "RUN", tmp_path / "demo" / "ropo")
    return module


@pytest.fixture
def small(demo, tmp_path, monkeypatch):
    """Let the demo take two steps of a tiny model that answers eight prompts."""
    model = save_tiny(tmp_path / "model")
    monkeypatch.setattr(demo, "model_path", lambda: model)
    monkeypatch.setattr(demo, "BATCH", 1)
    monkeypatch.setattr(demo, "STEPS", 4)
    monkeypatch.setattr(demo, "PROMPTS", 8)
    monkeypatch.setattr(demo, "SAMPLING", SamplingSettings(samples=2, max_new_tokens=4, seed=0))
    return demo


def test_it_ends_with_answers_side_by_side_a_table_a_verdict_and_a_page(small, capsys):
    small.main([])
    said = capsys.readouterr().out
    followed, forgotten = (read_results(small.OUTPUT / suite) for suite in ("instructions", "knowledge"))
    assert [model.name for model in followed.models] == ["before", "after"]
    before = followed.models[0].metric("passes")
    assert before.count == 8
    table = said.partition("Held-out prompts")[2]
    after = followed.models[1].metric("passes")
    assert re.search(rf"instructions followed +{before.value:.0%} +{after.value:.0%} ", table)
    change = forgotten.models[1].change("text/loss")
    assert re.search(rf"{re.escape(f'{change.value:+.3f}')} +\[{change.low:.3f}, {change.high:.3f}\]", table)
    assert "of the instructions than before." in table or "do not tell the trained model from the one before" in table
    trained = read_record(small.RUN).metrics["trainable_parameters"]
    assert f"{trained:,} parameters" in table
    prompts = read_prompts(small.DATA / "test.prompts.jsonl")
    answers = said.partition("First answers")[2]
    assert all(prompts[number].turns[-1]["content"].split()[0] in answers for number in (0, 4))
    page = (small.OUTPUT / "report.html").read_text(encoding="utf-8")
    assert "RoPO, a demo" in page
    assert all(f"ropo {command}" in said for command in ("train --model", "evaluate instructions", "report "))


def test_a_second_call_does_nothing_twice(small, capsys, monkeypatch):
    small.main([])
    first = read_results(small.OUTPUT / "instructions").models
    capsys.readouterr()
    monkeypatch.setattr("ropo.lm.sampling.sampler.load_sampler_model", lambda source: pytest.fail("sampled again"))
    small.main([])
    assert capsys.readouterr().out.count("is finished: nothing to do") == 1
    assert read_results(small.OUTPUT / "instructions").models == first


def test_a_command_that_fails_ends_it(demo, monkeypatch):
    monkeypatch.setattr(demo, "ropo", lambda command: 2)
    with pytest.raises(SystemExit) as ended:
        demo.main([])
    assert ended.value.code == 2


def test_there_are_pairs_and_prompts_enough(demo):
    pairs = (demo.DATA / "train.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(pairs) >= demo.STEPS * demo.BATCH, "no pair is seen twice"
    prompts = (demo.DATA / "test.prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(prompts) >= demo.PROMPTS
    trained = {json.dumps(json.loads(pair)["prompt"]) for pair in pairs}
    assert not trained & {json.dumps(json.loads(prompt)["prompt"]) for prompt in prompts}, "held out"


def test_help_says_what_it_does_and_trains_nothing(demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ropo", lambda command: pytest.fail("nothing is to be trained"))
    with pytest.raises(SystemExit) as ended:
        demo.main(["--help"])
    assert ended.value.code == 0
    assert "with RoPO" in capsys.readouterr().out
