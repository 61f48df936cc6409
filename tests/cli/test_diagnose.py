"""`ropo diagnose` as a user runs it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from ropo import RopoConfig
from ropo.cli.main import main
from ropo.diagnostics import DiagnosticReport
from tests.cli.conftest import write_pairs
from tests.tiny.adapted import tiny_qwen2
from tests.tiny.sampled import tiny_model, write_prompts
from tests.tiny.tokenizer import tiny_tokenizer


def save_adapter(base: str, folder, config) -> str:
    torch.manual_seed(0)
    policy = get_peft_model(tiny_model(), config)
    policy.peft_config["default"].base_model_name_or_path = base
    policy.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    targets = ["q_proj", "v_proj"]
    configs = {
        "ropo": RopoConfig(target_modules=targets, init_weights=False),
        "lora": LoraConfig(target_modules=targets, r=2, init_lora_weights=False),
    }
    return {name: save_adapter(model, folder / name, config) for name, config in configs.items()}


def diagnose(source: str, output, *flags) -> int:
    return main(["diagnose", source, "--output", str(output), *map(str, flags)])


def read(file) -> DiagnosticReport:
    text = file.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    return DiagnosticReport.model_validate_json(text)


def test_plain_model_alone(model, tmp_path, capsys):
    assert diagnose(model, tmp_path / "r.json", "--layers") == 0
    report = read(tmp_path / "r.json")
    assert report.summary.layers == len(report.layers) == 14
    assert report.reference is report.summary.energy_change is report.behaviour is None
    assert report.layers[0].change is None
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].startswith("verdict   described on its own: nothing to compare with")
    assert "model.layers.1.mlp.down_proj" in shown
    assert f"energy {report.summary.energy:.8g} in all" in shown


def test_adapters_against_their_base(adapters, tmp_path):
    for name, source in adapters.items():
        assert diagnose(source, tmp_path / f"{name}.json") == 0
    ropo, lora = (read(tmp_path / f"{name}.json") for name in ("ropo", "lora"))
    assert ropo.summary.layers == lora.summary.layers == 4
    assert abs(ropo.summary.energy_change) < 1e-6  # float32 weights
    assert ropo.summary.largest_cosine_change < 1e-5
    assert ropo.summary.largest_orthogonality_error < 1e-13
    assert lora.summary.largest_cosine_change > 1e-3
    assert lora.summary.largest_orthogonality_error is None


def test_everything_at_once(adapters, tmp_path, capsys):
    pairs, prompts, text = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "prompts.jsonl", tmp_path / "text.txt"
    write_prompts(prompts)
    text.write_text("the cat sat on the mat . " * 30)
    flags = ["--pairs", pairs, "--max_pairs", 3, "--prompts", prompts, "--samples", 2, "--max_new_tokens", 8]
    assert diagnose(adapters["lora"], tmp_path / "r.json", *flags, "--text", text) == 0
    report = read(tmp_path / "r.json")
    assert report.behaviour.pairs == 3
    assert report.answers.policy.answers == report.answers.reference.answers == 14
    assert (report.answers.kl.answers, report.answers.kl.prompts) == (14, 7)
    assert report.answers.kl.per_answer > 0
    assert report.text.policy.tokens == 30 * 7
    assert report.text.policy.loss != report.text.reference.loss
    shown = capsys.readouterr().out
    for part in ("Held-out pairs", "Generated answers", "Plain text", "chosen change per token", "prompts behind KL"):
        assert part in shown
    assert all(warning in shown for warning in report.warnings)
    verdict = next(line for line in shown.splitlines() if line.startswith("verdict"))
    assert verdict.endswith("; too few to warn: 3 held-out pairs, 1 pieces of plain text, where it takes 7")


def test_collapsed_neurons_are_found_in_a_full_checkpoint(model, tmp_path, capsys):
    planted = tiny_model()
    weight = planted.model.layers[1].self_attn.k_proj.weight.data
    weight[5] = 1.5 * weight[2]
    planted.save_pretrained(tmp_path / "planted")
    tiny_tokenizer().save_pretrained(tmp_path / "planted")
    assert diagnose(str(tmp_path / "planted"), tmp_path / "r.json", "--reference", model) == 0
    report = read(tmp_path / "r.json")
    changed = [layer.name for layer in report.layers if layer.change.cosines.largest > 0]
    assert changed == ["model.layers.1.self_attn.k_proj"]
    assert report.summary.collapsed_pairs == 1
    assert [warning.split(":")[0] for warning in report.warnings] == ["neuron_collapse"]
    assert "warning   neuron_collapse: 1 pairs" in capsys.readouterr().out


def test_same_seed_same_report(adapters, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl")
    for name in ("a", "b"):
        assert diagnose(adapters["ropo"], tmp_path / name, "--prompts", prompts, "--max_new_tokens", 6) == 0
    assert read(tmp_path / "a").answers == read(tmp_path / "b").answers


def one_error(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ropo diagnose: error:")]
    assert len(lines) == 1
    return lines[0]


def test_nan_weights(model, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, :2] = math.nan
    save_file(tensors, file, metadata={"format": "pt"})
    assert diagnose(str(tmp_path / "broken"), tmp_path / "r.json") == 2
    assert "model.layers.0.mlp.up_proj: must be finite, has 2 NaN" in one_error(capsys)
    assert not (tmp_path / "r.json").exists()


def test_reference_of_another_architecture(model, tmp_path, capsys):
    tiny_qwen2().save_pretrained(tmp_path / "qwen")
    assert diagnose(model, tmp_path / "r.json", "--reference", tmp_path / "qwen") == 2
    assert "reference: must have the model's architecture" in one_error(capsys)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pairs", "PAIRS"], "--pairs: log-prob changes need a model to compare with; add --reference"),
        (["--text", "nowhere.txt"], "text nowhere.txt: no such file"),
        (["--text", "BINARY"], "is not UTF-8"),
        (["--prompts", "nowhere.jsonl"], "no such file"),
        (["--max_pairs", "0"], "--max_pairs: must be at least 1, got 0"),
        (["--samples", "0"], "samples must be at least 1"),
    ],
)
def test_bad_flags(model, tmp_path, capsys, flags, message):
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    places = {"PAIRS": str(write_pairs(tmp_path / "pairs.jsonl")), "BINARY": str(binary)}
    assert diagnose(model, tmp_path / "r.json", *(places.get(flag, flag) for flag in flags)) == 2
    assert message in one_error(capsys)
    assert not (tmp_path / "r.json").exists()


def test_an_existing_output_stays_unless_told(model, tmp_path, capsys):
    output = tmp_path / "r.json"
    output.write_text("mine")
    assert diagnose(model, output) == 2
    assert "add --overwrite" in one_error(capsys)
    assert output.read_text() == "mine"
    assert diagnose(model, tmp_path) == 2
    assert "is a folder" in one_error(capsys)
    assert diagnose(model, output, "--overwrite") == 0
    assert json.loads(output.read_text())["schema_version"] == 3
