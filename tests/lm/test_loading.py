"""Every kind of bad model is one line that says what is wrong, and resized models load as they were saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, T5Config

from ropo.cli.main import main
from ropo.core.errors import UserError
from ropo.lm.adapters import load_adapter
from ropo.lm.loading import load_model, load_policy, load_tokenizer
from tests.tiny.sampled import save_tiny, tiny_model, write_prompts


def _configured(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink(missing_ok=True) or ((folder / name).write_text(content) and None)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def _tokenizer_only(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"model.embed_tokens.weight": 1, "lm_head.weight": 2}
    weights = {name: f"model-0000{number}-of-00002.safetensors" for name, number in names.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_empty, "the folder is empty"),
    "a tokenizer only": (_tokenizer_only, "the folder has no config.json"),
    "no tokenizer": (_without_tokenizer, "the folder has no tokenizer"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "the folder has no weights"),
    "broken config": (_written("config.json", "{nope"), "cannot be loaded"),
    "config is a list": (_written("config.json", "[]"), "cannot be loaded"),
    "config of nothing": (_written("config.json", "{}"), "cannot be loaded"),
    "unknown architecture": (_configured(model_type="martian"), "cannot be loaded"),
    "no language model": (_written("config.json", '{"model_type": "vit"}'), "cannot be loaded"),
    "broken tokenizer": (_written("tokenizer.json", "{"), "its tokenizer cannot be loaded"),
    "cut weights": (_cut, "its model cannot be loaded"),
    "empty weights": (_written("model.safetensors", ""), "its model cannot be loaded"),
    "no pickle": (_pickled, "its model cannot be loaded"),
    "a missing shard": (_without_a_shard, "model-00002-of-00002.safetensors"),
    "other shapes": (_configured(intermediate_size=96), r"do not fit its config.json: .* is \(.*\) and should be \("),
    "missing layers": (_configured(num_hidden_layers=3), "its files lack 9 of the weights .* such as model.layers.2"),
}


def _t5(folder: Path) -> None:
    config = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    shutil.move(folder / "tokenizer.json", folder.parent / "tokenizer.json")
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    shutil.move(folder.parent / "tokenizer.json", folder / "tokenizer.json")


BAD["T5"] = (_t5, "is an encoder-decoder model, such as T5")
BAD["a classifier"] = (
    _configured(architectures=["LlamaForSequenceClassification"], tie_word_embeddings=True),
    "is a LlamaForSequenceClassification, which scores or fills in texts and cannot write them",
)


def _load_both(folder: Path) -> None:
    load_tokenizer(str(folder))
    load_model(str(folder))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_folder_is_one_line_in_every_command(kind, tmp_path, capsys):
    change, message = BAD[kind]
    folder = Path(save_tiny(tmp_path / "model"))
    change(folder)
    with pytest.raises(UserError, match=message):
        _load_both(folder)
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "the cat", "chosen": "yes", "rejected": "no"}\n')
    train = ["--data", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "out"), "--use_cpu"]
    commands = (
        ["train", "--model", str(folder), *train],
        ["generate", str(folder), "--prompts", str(prompts), "--output", str(tmp_path / "g.jsonl")],
        ["diagnose", str(folder), "--output", str(tmp_path / "d.json"), "--prompts", str(prompts)],
    )
    for command in commands:
        capsys.readouterr()
        assert main(command) == 2, command
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"ropo {command[0]}: error: model {folder}")
    assert {each.name for each in tmp_path.iterdir()} == {"model", "prompts.jsonl", "pairs.jsonl"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "no such file or folder"),
        ("/no/where", "no such file or folder"),
        ("~/nowhere", "no such file or folder"),
        ("several/folders/deep", "no such file or folder"),
        ("model.safetensors", "no such file or folder"),
        ("model.gguf", "no such file or folder"),
        ("", "is named by nothing"),
        ("org/name", "is no folder here, and no .* of that name came from the hub"),
        ("name", "is no folder here, and no .* of that name came from the hub"),
    ],
)
def test_a_place_that_is_none(source, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=message) as error:
            load(source)
        assert "huggingface.co" not in str(error.value)
        if message.startswith("is no folder"):
            assert "(it was not asked, as HF_HUB_OFFLINE is set; its cache on this machine was looked" in str(
                error.value
            )


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "file").write_text("text")
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=r"is neither a folder nor a \.gguf file"):
            load(str(tmp_path / "file"))


def test_a_damaged_adapter_config(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{nope")
    for load in (load_policy, load_tokenizer):
        with pytest.raises(UserError, match=r"adapter_config\.json cannot be read"):
            load(str(tmp_path))


@pytest.mark.parametrize("saved", ["embeddings", "modules_to_save"])
@pytest.mark.parametrize("rows", [40, 24])
def test_an_adapter_with_other_embeddings_than_its_base(saved, rows, tmp_path):
    base = save_tiny(tmp_path / "base")
    model = load_model(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    modules = ["embed_tokens", "lm_head"] if saved == "modules_to_save" else None
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=modules)
    policy = get_peft_model(model, config).eval()
    with torch.no_grad():
        policy.get_input_embeddings().weight[-1] += 1.0
    policy.save_pretrained(tmp_path / "adapter", save_embedding_layers=modules is None)
    ids = torch.tensor([[3, 4, rows - 1]])
    with torch.no_grad():
        found = load_policy(str(tmp_path / "adapter"))
        assert torch.allclose(found(ids).logits, policy(ids).logits, atol=1e-5)
        merged = found.merge_and_unload()
        assert torch.allclose(merged(ids).logits, policy(ids).logits, atol=1e-4)
    assert merged.config.vocab_size == rows
    assert load_adapter(load_model(base), str(tmp_path / "adapter"), trainable=True).get_nb_trainable_parameters()[0]


def test_padded_embeddings_are_loaded_as_they_are(tmp_path):
    model = tiny_model()
    model.resize_token_embeddings(64, mean_resizing=False)
    model.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).get_input_embeddings().num_embeddings == 64
