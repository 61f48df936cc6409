"""What the demo takes of the shipped pairs. The run itself needs minutes: `make demo`."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = spec_from_file_location("demo", Path(__file__).parents[2] / "examples" / "demo.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HELD_OUT_PAIRS", tmp_path / "runs" / "held_out.jsonl")
    return module


def test_the_subset_is_seeded_and_of_the_named_size(demo):
    prompts, family = demo.subset("test.prompts.jsonl", 64), demo.subset("family.prompts.jsonl", 24)
    assert (len(prompts), len(family)) == (demo.PROMPTS, demo.FAMILY_PROMPTS) == (64, 24)
    assert len({prompt.line for prompt in prompts}) == 64
    assert prompts == demo.subset("test.prompts.jsonl", 64)
    assert [prompt.line for prompt in prompts] == sorted(prompt.line for prompt in prompts)
    assert [prompt.line for prompt in prompts] != list(range(1, 65)), "drawn, not the first"


def test_held_out_pairs_are_those_of_the_drawn_prompts(demo):
    prompts = demo.subset("test.prompts.jsonl", 64)
    count = demo.write_held_out_pairs(prompts)
    pairs = [json.loads(line) for line in demo.HELD_OUT_PAIRS.read_text(encoding="utf-8").splitlines()]
    everything = (demo.DATA / "test.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert 50 < len(pairs) == count < len(everything)
    turns = [prompt.turns for prompt in prompts]
    assert all(pair["prompt"] in turns for pair in pairs)
    assert sum(json.loads(line)["prompt"] in turns for line in everything) == count


def test_there_are_pairs_enough_for_every_step(demo):
    lines = (demo.DATA / "train.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= demo.STEPS * demo.BATCH, "no pair is seen twice"


def test_help_says_what_it_does_and_trains_nothing(demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ropo", lambda arguments: pytest.fail("nothing is to be trained"))
    with pytest.raises(SystemExit) as ended:
        demo.main(["--help"])
    assert ended.value.code == 0
    assert "--resume" in capsys.readouterr().out


@pytest.mark.parametrize(("resume", "flag"), [(True, "--resume"), (False, "--overwrite")])
def test_resume_goes_on_with_the_stopped_run(demo, monkeypatch, resume, flag):
    asked = []

    def stop(arguments):
        asked.extend(arguments)
        return 1

    monkeypatch.setattr(demo, "ropo", stop)
    with pytest.raises(SystemExit):
        demo.train("model", resume)
    assert [each for each in asked if each in ("--resume", "--overwrite")] == [flag]
