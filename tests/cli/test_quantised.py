"""A base model whose folder says that it is quantised: trained on, and merged into plain weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ropo.core.errors import UserError
from ropo.lm.loading import load_policy, load_tokenizer
from ropo.lm.sampling import load_sampler_model
from ropo.lm.sampling.vllm_sampler import plain_checkpoint
from tests.cli.conftest import LN2, PROBE, logged, merge, train
from tests.tiny.adapted import relative_difference
from tests.tiny.quantised import LOSS, folder, load, pytestmark
from tests.tiny.tokenizer import tiny_tokenizer

__all__ = ["folder", "pytestmark"]  # a fixture, and marks


@pytest.fixture(params=LOSS)
def quantised(request, folder, tmp_path) -> str:
    """A tiny model, quantised and saved."""
    load(folder, request.param).save_pretrained(tmp_path / "quantised")
    tiny_tokenizer().save_pretrained(tmp_path / "quantised")
    assert "quantization_config" in json.loads((tmp_path / "quantised" / "config.json").read_text())
    return str(tmp_path / "quantised")


def test_trains_samples_and_merges(quantised, pairs, tmp_path, capsys):
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert train(quantised, pairs, adapter, "--learning_rate", 0.02, "--eval_data", pairs) == 0
    assert logged(adapter)[0]["loss"] == pytest.approx(LN2, abs=1e-3)
    saved = load_file(adapter / "adapter_model.safetensors")
    assert {each.dtype for each in saved.values()} == {torch.float32}
    expected = logits(load_policy(str(adapter)))
    change = relative_difference(expected, logits(load_policy(quantised)))
    assert change > 1e-2
    assert torch.equal(logits(load_sampler_model(str(adapter)).eval()), expected)
    with pytest.raises(UserError, match="vLLM cannot be given its quantised base; name what `ropo merge` makes of it"):
        plain_checkpoint(str(adapter), load_tokenizer(quantised)).__enter__()
    assert capsys.readouterr().err == ""
    status = merge(adapter, merged)
    if "torchao" in (tmp_path / "quantised" / "config.json").read_text():
        assert status == 2
        assert "are quantised with torchao, which transformers cannot undo; set base_model" in capsys.readouterr().err
        return
    assert status == 0
    plain = AutoModelForCausalLM.from_pretrained(merged)
    assert type(plain.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    # int8 products round their inputs, plain ones do not: 0.08 of the change was seen; a merge gone wrong is off by all
    assert relative_difference(logits(plain), expected) < 0.15 * change


def test_full_fine_tuning_is_refused(quantised, pairs, tmp_path, capsys):
    assert train(quantised, pairs, tmp_path / "out", "--method", "full") == 2
    assert "cannot perform fine-tuning on purely quantized models" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(PROBE).logits


@pytest.mark.parametrize("bits", [4, 8])
def test_a_plain_model_is_quantised_on_request(folder, pairs, tmp_path, capsys, bits):
    """Trained on the quantised base, and merged into the plain one, whose name the adapter keeps."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    tiny_tokenizer().save_pretrained(folder)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert train(folder, pairs, adapter, "--learning_rate", 0.02, f"--load_in_{bits}bit") == 0
    assert logged(adapter)[0]["loss"] == pytest.approx(LN2, abs=1e-3)
    assert json.loads((adapter / "run.json").read_text())["config"]["bits"] == bits
    assert {each.dtype for each in load_file(adapter / "adapter_model.safetensors").values()} == {torch.float32}
    assert merge(adapter, merged) == 0
    assert capsys.readouterr().err == ""
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
