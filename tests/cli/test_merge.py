"""`ropo merge`: a plain checkpoint that answers as the adapter does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropo import RopoConfig
from ropo.adapter.layer import RopoLinear
from ropo.core.record import read_record
from ropo.lm.loading import load_model, load_policy, load_tokenizer
from tests.cli.conftest import PROBE, merge, train
from tests.tiny.gguf import LAYERS, write_gguf


@pytest.mark.parametrize(
    ("method", "flags"), [("ropo", ()), ("lora", ()), ("oft", ("--oft_block_size", 8)), ("hra", ())]
)
def test_the_merged_model_equals_the_adapter(model, pairs, tmp_path, capsys, method, flags):
    assert train(model, pairs, tmp_path / "adapter", "--method", method, "--learning_rate", 0.01, *flags) == 0
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected, base = load_policy(str(tmp_path / "adapter"))(PROBE).logits, load_model(model)(PROBE).logits
    found = merged(PROBE).logits
    assert merged.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # the product is rounded at another place
    assert (expected - base).abs().max() > 1e-3  # the adapter does something
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    record = read_record(tmp_path / "merged")
    assert (record.status, record.metrics["parameters"]) == ("finished", merged.num_parameters())
    assert "saved the merged model" in capsys.readouterr().out


def test_the_base_models_dtype_is_kept_and_weights_are_rounded_once(model, pairs, tmp_path):
    half = tmp_path / "half"
    load_model(model).bfloat16().save_pretrained(half)
    AutoTokenizer.from_pretrained(model).save_pretrained(half)
    assert train(half, pairs, tmp_path / "adapter", "--method", "lora", "--learning_rate", 0.1) == 0
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    exact = load_policy(str(tmp_path / "adapter"), torch.float32).merge_and_unload()
    assert merged.dtype == torch.bfloat16
    for (name, found), (_, expected) in zip(merged.named_parameters(), exact.named_parameters(), strict=True):
        assert torch.equal(found, expected.bfloat16()), name


def test_what_cannot_be_merged(model, pairs, tmp_path, capsys):
    assert merge(model, tmp_path / "merged") == 2
    assert "has no adapter_config.json" in capsys.readouterr().err
    assert merge(tmp_path / "none", tmp_path / "merged") == 2
    assert f"adapter {tmp_path / 'none'}: no such folder; check the path" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_the_output_is_guarded(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "adapter") == 0
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").write_text("")
    capsys.readouterr()
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 2
    assert "the folder is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["mine"]


def test_an_adapter_without_weights_is_refused(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "adapter") == 0
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    capsys.readouterr()
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 2
    assert "the folder has no weights (adapter_model.safetensors)" in capsys.readouterr().err
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["status"] == "finished"
    assert not Path(tmp_path / "merged").exists()


def test_it_says_how_near_the_merged_model_is(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "adapter", "--learning_rate", 0.01) == 0
    capsys.readouterr()
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"beside the adapter, in float32: 100\.0% of \d+ greedy tokens agree, logits differ by \de?\S+ at most, "
        r"KL \S+ nats; the adapter itself is KL \S+ from its base",
        told,
    )
    metrics = read_record(tmp_path / "merged").metrics
    assert metrics["merged"]["agreeing"] == 1.0
    assert metrics["merged"]["kl"] < 1e-6 < 1e-4 < metrics["base"]["kl"]


def test_a_merge_that_is_another_model_is_refused_unless_forced(model, pairs, tmp_path, capsys, monkeypatch):
    assert train(model, pairs, tmp_path / "adapter", "--learning_rate", 0.01) == 0
    monkeypatch.setattr(RopoLinear, "_merged_weight", lambda self, name: self._neurons())
    capsys.readouterr()
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 2
    assert "merged, it is another model" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))
    assert merge(tmp_path / "adapter", tmp_path / "merged", "--force") == 0
    out, err = capsys.readouterr()
    assert err.startswith("ropo merge: warning: adapter ")
    assert "it is another model" in err
    assert "saved the merged model" in out


def test_a_dtype_that_swallows_the_adapter_is_told_and_another_can_be_asked_for(model, pairs, tmp_path, capsys):
    half = tmp_path / "half"
    load_model(model).bfloat16().save_pretrained(half)
    AutoTokenizer.from_pretrained(model).save_pretrained(half)
    assert train(half, pairs, tmp_path / "adapter", "--learning_rate", 1e-5) == 0
    capsys.readouterr()
    assert merge(tmp_path / "adapter", tmp_path / "merged") == 0
    assert "rounding to bfloat16 undoes what it learned: merge with --dtype float32" in capsys.readouterr().out
    assert merge(tmp_path / "adapter", tmp_path / "wide", "--dtype", "float32") == 0
    assert "undoes" not in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "wide").dtype == torch.float32


@pytest.fixture
def gguf_adapter(tmp_path, monkeypatch) -> tuple[Path, dict]:
    """An adapter on a `.gguf` file, and the exact merged weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = str(write_gguf(tmp_path / "base.gguf", tied=False))
    policy = get_peft_model(load_model(base), RopoConfig(init_weights=False))
    policy.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", policy.merge_and_unload().state_dict()


def test_over_a_gguf_file_a_gguf_file_is_written(gguf_adapter, tmp_path, capsys):
    adapter, exact = gguf_adapter
    assert merge(adapter, tmp_path / "merged.gguf") == 0
    saved, told = capsys.readouterr().out.splitlines()[1:]
    assert saved.endswith("4 tensors anew (4 as F16), 17 as they were")
    assert told.startswith("beside the adapter, in f16: ")
    record = json.loads((tmp_path / "merged.gguf.run.json").read_text())
    assert record["metrics"]["merged"]["kl"] < 1e-4 < record["metrics"]["base"]["kl"]
    found = load_model(str(tmp_path / "merged.gguf")).state_dict()
    rounded = {name for name, weight in exact.items() if not torch.equal(found[name], weight)}
    assert len(rounded) == 2 * LAYERS
    assert all(torch.equal(found[name], exact[name].half().float()) for name in rounded)
    capsys.readouterr()
    assert merge(adapter, tmp_path / "merged.gguf") == 2
    assert "is there already" in capsys.readouterr().err
    assert merge(adapter, tmp_path / "merged.gguf", "--overwrite", "--quantise", "f32") == 0
    assert "4 tensors anew (4 as F32)" in capsys.readouterr().out
    found = load_model(str(tmp_path / "merged.gguf")).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in exact.items())


def test_a_wrong_merge_writes_no_gguf_file(gguf_adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(RopoLinear, "_merged_weight", lambda self, name: self._neurons())
    assert merge(gguf_adapter[0], tmp_path / "merged.gguf") == 2
    assert "merged, it is another model" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))


def test_where_no_gguf_file_can_be_written(gguf_adapter, model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "plain") == 0
    for adapter, output, flags, told in (
        (tmp_path / "plain", "merged.gguf", (), "run llama.cpp's `python convert_hf_to_gguf.py FOLDER --outfile"),
        (gguf_adapter[0], "base.gguf", ("--overwrite",), "is the base model itself"),
        (gguf_adapter[0], "merged.gguf", ("--dtype", "bfloat16"), "a .gguf file has --quantise"),
        (gguf_adapter[0], "merged", ("--quantise", "q8_0"), "a folder has --dtype"),
        (gguf_adapter[0], "merged.gguf", ("--quantise", "q4_k"), "invalid choice: 'q4_k'"),
    ):
        capsys.readouterr()
        assert merge(adapter, tmp_path / output, *flags) == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))
