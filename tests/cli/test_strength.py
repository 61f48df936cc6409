"""An adapter at a strength, on every command that runs one: `--strength T`, or `DIR@T`."""

from __future__ import annotations

import json
import shutil
from copy import copy

import pytest
import torch
from peft import HRAConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file

from ropo import RopoConfig
from ropo.cli.main import main
from ropo.core.record import read_record
from ropo.evaluation.results import read_results
from ropo.lm.loading import load_model, load_policy
from tests.cli.conftest import train
from tests.tiny.sampled import tiny_model, write_prompts
from tests.tiny.tokenizer import tiny_tokenizer

PROBE = torch.arange(14)[None]
CONFIGS = {
    "ropo": RopoConfig(init_weights=False, task_type="CAUSAL_LM"),
    "lora": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    "hra": HRAConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}


@pytest.fixture
def adapters(model, tmp_path) -> dict[str, str]:
    """Adapters of random weights, each in a folder of its own."""
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        policy = get_peft_model(tiny_model(), copy(config))
        policy.peft_config["default"].base_model_name_or_path = model
        policy.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in CONFIGS}


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["ropo", "lora"])
def test_merge(model, adapters, tmp_path, method):
    for strength in ("0", "0.5", "1", "1.5"):
        merged, named = tmp_path / f"{method}@{strength}.merged", tmp_path / "named"
        assert run("merge", adapters[method], "--strength", strength, "--output", merged) == 0
        assert run("merge", f"{adapters[method]}@{strength}", "--output", named, "--overwrite") == 0
        unmerged = load_policy(f"{adapters[method]}@{strength}")(PROBE).logits
        found = load_model(str(merged))(PROBE).logits
        assert (found - unmerged).norm() / unmerged.norm() < 1e-4
        same = weights(merged)
        assert all(torch.equal(same[name], part) for name, part in weights(named).items())
        assert read_record(merged).config["strength"] == strength
    assert run("merge", adapters[method], "--output", tmp_path / "plain") == 0
    outputs = {
        each: weights(tmp_path / each) for each in ("plain", *(f"{method}@{t}.merged" for t in ("0", "0.5", "1")))
    }
    base = load_model(model).state_dict()
    for name, part in outputs["plain"].items():
        assert torch.equal(outputs[f"{method}@1.merged"][name], part)  # bit by bit what it was without the flag
        assert torch.equal(outputs[f"{method}@0.merged"][name], base[name])
    assert any(not torch.equal(outputs[f"{method}@0.5.merged"][name], part) for name, part in outputs["plain"].items())


def test_a_merged_folder_named_after_the_strength_is_no_adapter_at_it(adapters, tmp_path):
    """The flag turns the adapter; `DIR@0.5` is the folder of that name, where there is one."""
    folder = tmp_path / "ropo@0.5"
    assert run("merge", adapters["ropo"], "--strength", "0.5", "--output", folder) == 0
    first = weights(folder)
    assert run("merge", adapters["ropo"], "--strength", "0.5", "--output", folder, "--overwrite") == 0
    assert all(torch.equal(first[name], part) for name, part in weights(folder).items())
    shutil.copytree(adapters["lora"], tmp_path / "ropo@1")
    assert torch.equal(load_policy(f"{tmp_path}/ropo@1")(PROBE).logits, load_policy(adapters["lora"])(PROBE).logits)


def test_generate(model, adapters, tmp_path):
    prompts, found = write_prompts(tmp_path / "p.jsonl"), {}
    assert run("merge", adapters["ropo"], "--strength", "0.5", "--output", tmp_path / "half") == 0
    for number, (source, *flags) in enumerate(
        [
            (model,),
            (adapters["ropo"],),
            (tmp_path / "half",),
            (f"{adapters['ropo']}@0.5",),
            (adapters["ropo"], "--strength", "0.5"),
            (adapters["ropo"], "--strength", "0"),
        ]
    ):
        output = tmp_path / f"{number}.jsonl"
        flags += ["--prompts", prompts, "--output", output, "--max_new_tokens", 6, "--samples", 2]
        assert run("generate", source, *flags) == 0
        records = [json.loads(line) for line in output.read_text().splitlines()]
        found[number] = [record["outputs"] for record in records]
        named = {0: "model", 1: "ropo", 2: "half", 3: "ropo@0.5", 4: "ropo@0.5", 5: "ropo@0"}[number]
        assert records[0]["sampling"]["model"].startswith(named)
    assert found[2] == found[3] == found[4] != found[1] != found[0] == found[5]


def test_contestants_at_strengths_share_a_cache(model, adapters, pairs, tmp_path):
    """Each is kept by its content, strength and all; a strength of 1 is the adapter."""
    contestants = [adapters["ropo"], f"{adapters['ropo']}@0.5", f"whole={adapters['ropo']}@1", f"{adapters['lora']}@0"]
    flags = ["--data", pairs, "--cache", tmp_path / "cache", "--reference", model]
    margins = {}
    for number, some in enumerate([contestants[:1], contestants]):
        assert run("evaluate", "preference", *some, *flags, "--output", tmp_path / f"out{number}") == 0
        results = read_results(tmp_path / f"out{number}").models
        margins |= {each.name: each.metric("margin").value for each in results}
    assert list(margins) == ["ropo", "ropo@0.5", "whole", "lora@0"]
    assert margins["whole"] == margins["ropo"] != margins["ropo@0.5"] != 0.0
    assert margins["lora@0"] == pytest.approx(0.0, abs=1e-6)  # BLAS rounds by where its inputs lie
    assert abs(margins["ropo"]) > 1e-3
    assert len(list((tmp_path / "cache" / "log_probs").glob("*.jsonl"))) == 4  # the base, 1, 0.5, and LoRA's 0
    prints = [each.fingerprint for each in results]
    assert prints[0] == prints[2]
    assert len(set(prints)) == 3


def test_diagnose(adapters, pairs, tmp_path):
    reports = {}
    for strength in ("0.5", "1"):
        output = tmp_path / f"{strength}.json"
        assert run("diagnose", adapters["ropo"], "--strength", strength, "--output", output, "--pairs", pairs) == 0
        reports[strength] = json.loads(output.read_text())
        named = tmp_path / f"named{strength}.json"
        assert run("diagnose", f"{adapters['ropo']}@{strength}", "--output", named, "--pairs", pairs) == 0
        again = json.loads(named.read_text())
        assert again["layers"] == reports[strength]["layers"]
        assert again["behaviour"] == reports[strength]["behaviour"]
        assert again["model"].endswith(f"ropo@{strength}")
        assert abs(reports[strength]["summary"]["energy_change"]) < 1e-5
    sizes = [reports[each]["layers"][0]["rotations"][0]["whole"]["distance"] for each in ("0.5", "1")]
    assert 0.2 * sizes[1] < sizes[0] < 0.8 * sizes[1]


@pytest.mark.parametrize("value", ["-0.5", "2.5", "nan", "inf", "half", ""])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_no_strength(adapters, pairs, tmp_path, capsys, value, named):
    model = [f"{adapters['ropo']}@{value}"] if named else [adapters["ropo"], f"--strength={value}"]
    prompts = write_prompts(tmp_path / "p.jsonl")
    commands = [
        ["merge", *model, "--output", tmp_path / "out"],
        ["generate", *model, "--prompts", prompts, "--output", tmp_path / "out"],
        ["diagnose", *model, "--output", tmp_path / "out"],
    ]
    if named:
        commands += [
            ["evaluate", "preference", *model, "--data", pairs, "--output", tmp_path / "out"],
            ["evaluate", "diversity", f"x={model[0]}", "--prompts", prompts, "--output", tmp_path / "out"],
            ["train", "--model", *model, "--data", pairs, "--output", tmp_path / "out"],
        ]
    capsys.readouterr()
    for command in commands:
        assert run(*command) == 2, command
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
        assert f"strength: must be a number from 0 (the base model) to 2, got {value!r}" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("hra@0.5", [], "hra@0.5: strength: PEFT scales no HRA adapter; ropo, lora, adalora, loha and lokr have a"),
        ("hra", ["--strength", "0.5"], "strength: PEFT scales no HRA adapter"),
        ("ropo@0.5", ["--strength", "0.5"], "names a strength already, and --strength another; give one of them"),
        ("model", ["--strength", "0.5"], "is no PEFT adapter, and only an adapter has a strength; leave it out"),
        ("model@0.5", [], "is no PEFT adapter, and only an adapter has a strength; leave @0.5 out"),
    ],
)
def test_what_has_no_strength(model, adapters, tmp_path, capsys, name, flags, message):
    folder, at, strength = name.partition("@")
    source = {**adapters, "model": model}[folder] + at + strength
    prompts = write_prompts(tmp_path / "p.jsonl")
    capsys.readouterr()
    for command in (
        ["generate", source, *flags, "--prompts", prompts, "--output", tmp_path / "out"],
        ["diagnose", source, *flags, "--output", tmp_path / "out"],
        ["merge", source, *flags, "--output", tmp_path / "out"],
    ):
        assert run(*command) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if ": error:" in line]
        assert message in line
        assert not (tmp_path / "out").exists()


def test_training_goes_on_from_strength_1_alone(adapters, pairs, tmp_path, capsys):
    for flags in ([], ["--plan"]):
        assert train(f"{adapters['ropo']}@0.5", pairs, tmp_path / "out", *flags) == 2
        assert "ropo@0.5: is at strength 0.5, and training goes on from 1" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert train(f"{adapters['ropo']}@1", pairs, tmp_path / "out") == 0
    assert "strength" not in json.loads((tmp_path / "out" / "adapter_config.json").read_text())
