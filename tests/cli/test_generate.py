"""`ropo generate` as a user runs it."""

from __future__ import annotations

import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model

from ropo.cli.main import main
from tests.tiny.sampled import TEXTS, tiny_model, write_prompts
from tests.tiny.tokenizer import tiny_tokenizer


def outputs_of(path):
    return [json.loads(line)["outputs"] for line in path.read_text().splitlines()]


def generate(model, prompts, output, *flags):
    arguments = ["generate", model, "--prompts", str(prompts), "--output", str(output), "--max_new_tokens", "6"]
    return main([*arguments, *flags])


def test_an_error_is_one_line_without_a_bar(model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    capsys.readouterr()  # what saving the model wrote
    next(folder.glob("*.safetensors")).write_bytes(b"broken")
    assert generate(str(folder), write_prompts(tmp_path / "p.jsonl"), tmp_path / "a.jsonl") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" model")[0] for line in lines] == ["ropo generate: error:"]


def test_each_record_gets_its_answers_and_settings(model, tmp_path):
    prompts, output = write_prompts(tmp_path / "p.jsonl", id=5), tmp_path / "out" / "a.jsonl"
    assert generate(model, prompts, output, "--samples", "3", "--seed", "1", "--batch_size", "6") == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["prompt"] for record in records] == list(TEXTS)
    for record in records:
        assert record["id"] == 5
        assert len(record["outputs"]) == len(record["output_tokens"]) == len(record["finished"]) == 3
        assert record["sampling"]["seed"] == 1
    assert [path.name for path in output.parent.iterdir()] == ["a.jsonl"]


def test_the_seed_decides(model, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert generate(model, prompts, tmp_path / name, "--seed", seed) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert outputs_of(tmp_path / "a") != outputs_of(tmp_path / "c")


def test_an_adapter_is_merged(model, tmp_path):
    policy = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    policy.peft_config["default"].base_model_name_or_path = model
    policy.save_pretrained(tmp_path / "adapter")
    merged = policy.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny_tokenizer().save_pretrained(tmp_path / "merged")
    prompts = write_prompts(tmp_path / "p.jsonl")
    outputs = {}
    for name in ("adapter", "merged", "base"):
        source = model if name == "base" else str(tmp_path / name)
        assert generate(source, prompts, tmp_path / f"{name}.jsonl") == 0
        outputs[name] = outputs_of(tmp_path / f"{name}.jsonl")
    assert outputs["adapter"] == outputs["merged"] != outputs["base"]


def test_an_existing_output_stays_unless_told(model, tmp_path, capsys):
    prompts, output = write_prompts(tmp_path / "p.jsonl"), tmp_path / "a.jsonl"
    output.write_text("mine")
    assert generate(model, prompts, output) == 2
    assert "exists; choose another name or add --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert generate(model, prompts, output, "--overwrite") == 0
    assert output.read_text() != "mine"


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", (), "holds no record"),
        ('{"prompt": "the cat"}\n{"prompt": 3}\n', (), "jsonl:2: prompt must be text"),
        ('{"prompt": "the cat"}\nthe dog\n', (), "jsonl:2: is not valid JSON"),
        ('{"prompt": "the cat"}\n', ("--top_p", "2"), "top_p must lie in"),
        ('{"prompt": "the cat"}\n', ("--batch_size", "0"), "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(model, tmp_path, capsys, content, flags, message):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(content)
    assert generate(model, prompts, tmp_path / "a.jsonl", *flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ropo generate: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_no_chat_template(model, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "plain")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    turns = tmp_path / "turns.jsonl"
    turns.write_text('{"prompt": [{"role": "user", "content": "the cat"}]}\n')
    assert generate(str(tmp_path / "plain"), turns, tmp_path / "a.jsonl") == 2
    assert "no chat template" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()
    texts = write_prompts(tmp_path / "p.jsonl")
    assert generate(str(tmp_path / "plain"), texts, tmp_path / "a.jsonl") == 0, "a text is continued"
