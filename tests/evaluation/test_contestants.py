"""Names of models on the command line, and fingerprints of what is behind them."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ropo.core.errors import UserError
from ropo.evaluation.contestants import Contestant, loaded, parse_contestants
from ropo.lm.fingerprint import fingerprint_source
from tests.tiny.sampled import save_adapter, save_tiny, tiny_model


def test_names(tmp_path):
    (tmp_path / "a=b").mkdir()
    specs = ["org/model", "tuned=org/model", str(tmp_path / "a=b"), f"x={tmp_path}/"]
    assert [each.name for each in parse_contestants(specs)] == ["org/model", "tuned", "a=b", "x"]
    assert [each.source for each in parse_contestants(specs)] == ["org/model", "org/model", specs[2], f"{tmp_path}/"]
    assert parse_contestants([f"{tmp_path}/a=b/"])[0].name == "a=b"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "needs at least one model"),
        (["x=a", "y=b", "x=c"], "models a and c: have one name, 'x'; give one of them another, as in x-2=c"),
        (["one/m", "one/m"], "have one name"),
        (["=a"], "must be SOURCE or NAME=SOURCE"),
        (["a="], "must be SOURCE or NAME=SOURCE"),
    ],
)
def test_bad_names(specs, message):
    with pytest.raises(UserError) as error:
        parse_contestants(specs)
    assert message in str(error.value)


def test_a_fingerprint_is_of_content(tmp_path):
    model = save_tiny(tmp_path / "model")
    copy = shutil.copytree(model, tmp_path / "copy")
    assert fingerprint_source(model) == fingerprint_source(str(copy))
    changed = shutil.copytree(model, tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.norm.weight"][-1] += 1e-6
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint_source(str(changed)) != fingerprint_source(model)


def test_an_adapters_fingerprint_is_of_its_base_too_wherever_it_lies(tmp_path):
    base = save_tiny(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    first = fingerprint_source(adapter)
    assert first != fingerprint_source(base)
    moved = shutil.copytree(base, tmp_path / "moved")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(base, str(moved)))
    fingerprint_source.cache_clear()
    assert fingerprint_source(adapter) == first
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    fingerprint_source.cache_clear()
    assert fingerprint_source(adapter) != first
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    (moved / "config.json").write_text((moved / "config.json").read_text().rstrip(" "))
    fingerprint_source.cache_clear()
    assert fingerprint_source(adapter) != first


def test_no_such_hub_model():
    with pytest.raises(UserError, match="model org/nothing: is no folder here, and the hub gave none of that name"):
        fingerprint_source("org/nothing")


def test_an_adapter_is_loaded_merged(tmp_path):
    adapter = save_adapter(save_tiny(tmp_path / "base"), tmp_path / "a")
    with loaded(Contestant("tuned", adapter)) as (model, tokenizer):
        assert type(model).__name__ == "LlamaForCausalLM"
        weight = model.model.layers[0].self_attn.q_proj.weight
        assert not torch.equal(weight, tiny_model().model.layers[0].self_attn.q_proj.weight)
        assert tokenizer.chat_template
