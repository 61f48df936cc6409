"""Every method and loss that a comparison offers trains a tiny model; what it changed is what it says."""

from __future__ import annotations

import pytest

from tests.cli.conftest import write_pairs
from tests.comparison.tiny import run_comparison, write_recipe
from tests.tiny.sampled import save_tiny

METHODS = {
    "SFT": {"method": "full", "loss_type": "sft"},
    "full": {"method": "full"},
    "LoRA": {"method": "lora"},
    "DoRA": {"method": "lora", "use_dora": True},
    "OFT": {"method": "oft"},
    "HRA": {"method": "hra"},
    "RoPO": {"method": "ropo"},
    "RoPO without reflections": {"method": "ropo", "reflections": 0},
    "RoPO without the reverse tree": {"method": "ropo", "givens": "forward"},
    "RoPO with magnitude": {"method": "ropo", "magnitude": True},
    "IPO": {"method": "lora", "loss_type": "ipo"},
    "length-normalised": {"method": "lora", "loss_type": "sigmoid_norm"},
    "length-desensitised": {"method": "lora", "ld_alpha": 0.5},
    "BCO on pairs": {"method": "lora", "loss_type": "bco_pair"},
}
# Answers of unequal lengths, as some losses differ in nothing else.
PAIRS = [
    {"prompt": f"{one} {two}", "chosen": "yes . the cat ran on", "rejected": "no"}
    for one in ("cat", "mat", "dog")
    for two in ("a", "on", "the")
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    model = save_tiny(folder / "model")
    methods = [{"label": label, "learning_rate": 0.01, **options} for label, options in METHODS.items()]
    parts = {"methods": methods, "seeds": [0], "evaluations": [], "samples": 0, "diagnose": False}
    recipe = write_recipe(folder, model, budget={"pairs": 8, "batch_size": 2}, **parts)
    write_pairs(folder / "train.jsonl", PAIRS)
    result = run_comparison(recipe, folder / "out")
    return {run.method: run for run in result.runs}


@pytest.mark.parametrize("label", METHODS)
def test_a_method_trains(runs, label):
    run = runs[label]
    assert run.status == "finished", run.reason
    losses = [line["loss"] for line in run.curves if "loss" in line]
    assert len(losses) == 4
    assert all(loss is not None for loss in losses)
    assert losses[0] != losses[1]
    config, metrics = run.record.config, run.record.metrics
    assert metrics["trainable_parameters"] > 0
    assert metrics["held_out"]["pairs"] == 2
    for name, value in METHODS[label].items():
        settings = {"method": config["method"], **(config["adapter"] or {}), **config["trainer"]}
        assert settings[name] in (value, [value]), name


def test_methods_train_what_they_name(runs):
    assert len(runs) == len(METHODS) + 1
    size = {label: runs[label].record.metrics["trainable_parameters"] for label in METHODS}
    assert size["full"] == size["SFT"] > size["LoRA"]
    assert size["DoRA"] > size["LoRA"] == size["IPO"]
    ablations = ("without reflections", "without the reverse tree")
    assert all(size[f"RoPO {ablation}"] < size["RoPO"] < size["RoPO with magnitude"] for ablation in ablations)
    adapted = [label for label in METHODS if METHODS[label]["method"] == "lora"]
    ends = {label: runs[label].curves[3]["logps/chosen"] for label in adapted}
    assert len(set(ends.values())) == len(ends), "two losses gave the same step"
