"""A merged model in a `.gguf` file: only what was trained is new, and our own reader finds the merged weights in it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

from ropo.core.errors import UserError
from ropo.lm import gguf_output
from ropo.lm.gguf_output import KINDS, write_gguf
from ropo.lm.loading import load_model
from tests.tiny.gguf import HEADS, KV_HEADS, LAYERS, WIDTH
from tests.tiny.gguf import write_gguf as write_tiny

CHANGED = {f"blk.{layer}.attn_{name}.weight" for layer in range(LAYERS) for name in "qv"}


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny(tmp_path / "base.gguf", tied=False)


def changed_model(base, factor=1.5):
    """Turn and stretch the rows of the adapted weights, each by numbers of its own."""
    model = load_model(str(base))
    with torch.no_grad():
        for layer in model.model.layers:
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.v_proj.weight):
                weight.mul_(torch.rand(len(weight), 1) * factor).copy_(weight.roll(1, 1))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_changed_tensors_are_new(base, tmp_path, kind):
    written = write_gguf(changed_model(base), base, tmp_path / "merged.gguf", kind)
    assert written.changed == dict.fromkeys(CHANGED, kind.upper())
    before, after = GGUFReader(base), GGUFReader(tmp_path / "merged.gguf")
    start = before.tensors[0].field.offset
    assert bytes(before.data[:start]) == bytes(after.data[:start])  # keys, values and counts
    assert [each.name for each in before.tensors] == [each.name for each in after.tensors]
    assert written.kept == len(after.tensors) - len(CHANGED) > 10
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.shape == new.shape).all()
        assert new.data_offset % before.alignment == 0
        if new.name in CHANGED:
            assert new.tensor_type == GGMLQuantizationType[kind.upper()]
        else:
            assert new.tensor_type == old.tensor_type
            assert bytes(old.data) == bytes(new.data)


@pytest.mark.parametrize("kind", KINDS)
def test_our_reader_finds_the_merged_weights(base, tmp_path, kind):
    model = changed_model(base)
    wanted = {name: weight.clone() for name, weight in model.state_dict().items()}
    write_gguf(model, base, tmp_path / "merged.gguf", kind)
    found = load_model(str(tmp_path / "merged.gguf")).state_dict()
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        adapted = "q_proj" in name or "v_proj" in name
        if kind == "f16" and adapted:
            weight = weight.half().float()
        if kind == "bf16" and adapted:
            weight = weight.bfloat16().float()
        if kind == "q8_0" and adapted:
            steps = weight.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1) / 127
            assert ((found[name] - weight).abs() <= 0.51 * steps).all()  # half a step, and the step's own rounding
            assert not torch.equal(found[name], weight)
        else:
            assert torch.equal(found[name], weight), name
        assert torch.equal(found[name], model.state_dict()[name]), name  # the model has what is in the file


def test_the_rows_of_queries_and_keys_are_laid_out_as_llama_cpp_does(base, tmp_path):
    """convert_hf_to_gguf.py: `weights.reshape(heads, 2, rows / heads / 2, columns).swapaxes(1, 2)`."""
    model = load_model(str(base))
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        for projection, heads in ((attention.q_proj, HEADS), (attention.k_proj, KV_HEADS)):
            projection.weight.copy_(torch.arange(heads * WIDTH // HEADS)[:, None] + torch.zeros(WIDTH))
    write_gguf(model, base, tmp_path / "merged.gguf", "f32")
    tensors = {each.name: each for each in GGUFReader(tmp_path / "merged.gguf").tensors}
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        rows = np.arange(heads * WIDTH // HEADS).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
        stored = tensors[f"blk.1.attn_{name}.weight"].data
        assert (stored == rows[:, None]).all()
        assert (rows != np.sort(rows)).any()


def test_an_unchanged_model_is_the_same_file(base, tmp_path):
    written = write_gguf(load_model(str(base)), base, tmp_path / "merged.gguf", "f16")
    assert written.changed == {}
    assert (tmp_path / "merged.gguf").read_bytes() == base.read_bytes()


def test_norms_stay_wide_and_narrow_rows_are_f16(base, tmp_path):
    model = load_model(str(base))
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
        model.model.layers[0].mlp.down_proj.weight.mul_(1.1)  # 48 columns, no whole number of blocks
    written = write_gguf(model, base, tmp_path / "merged.gguf", "q8_0")
    assert written.changed == {"output_norm.weight": "F32", "blk.0.ffn_down.weight": "F16"}


def test_what_does_not_fit(base, tmp_path, monkeypatch):
    model = load_model(str(base))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] = 1e6
    with pytest.raises(
        UserError, match=r"quantise: F16 cannot hold blk\.0\.attn_q\.weight .*use --quantise bf16 or f32"
    ):
        write_gguf(model, base, tmp_path / "merged.gguf", "f16")
    assert write_gguf(model, base, tmp_path / "merged.gguf", "bf16").kept
    wrong = load_model(str(base))
    wrong.model.layers[0].mlp.register_parameter("gate", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.gate was trained, and is no tensor of .* by itself"):
        write_gguf(wrong, base, tmp_path / "merged.gguf", "f16")


def test_a_quantiser_that_is_off_is_refused(base, tmp_path, monkeypatch):
    """As one whose rows are in another order."""
    right = gguf.quants.quantize
    monkeypatch.setattr(gguf.quants, "quantize", lambda values, kind: right(np.roll(values, 1, 0), kind))
    for kind in KINDS:
        with pytest.raises(UserError, match="cannot hold"):
            write_gguf(changed_model(base), base, tmp_path / "merged.gguf", kind)


def test_the_kinds_are_the_command_lines():
    from ropo.cli import merge

    assert merge._KINDS == KINDS
    assert {each.upper() for each in KINDS} == set(gguf_output._OFF)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_within_what_is_said_of_it(kind):
    """The bound holds for the worst block too: one number between two steps of a block's scale, many times."""
    worst = np.full((4, 32), 63.5 / 127 / 1.0, dtype=np.float32)
    worst[:, 0] = 1.0
    for values in (worst, np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)):
        tensor = gguf_output._quantised(values, kind, Path("base.gguf"), "name")
        off = np.linalg.norm(gguf.quants.dequantize(tensor.data, tensor.kind) - values) / np.linalg.norm(values)
        assert off <= gguf_output._OFF[kind.upper()]
        assert (off == 0) == (kind == "f32") or values is worst
