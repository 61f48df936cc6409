"""The LM head's tiles on a CPU: how wide they are, and that many of them score as one does."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer import utils

from ropo.training.packing.fused import enable_packing
from ropo.training.packing.tiles import fitting_tiles, tile_width
from tests.tiny.trained import SHAPE
from tests.training.packing_helpers import assert_same, edge_cases, packs_of, scores_and_gradients, with_fused_head

THEIRS = utils._CHUNKED_LOGPROB_CHUNK_SIZE


@pytest.mark.parametrize(
    ("tokens", "width"), [(1, 2048), (512, 2048), (513, 1024), (1024, 1024), (2400, 256), (4096, 256), (100_000, 256)]
)
def test_a_tile_has_at_most_a_million_numbers(tokens, width):
    """As far as its width allows: from 256 words, which products need, to 2,048."""
    assert tile_width(tokens) == width


def test_no_tokens_have_a_width_too():
    assert tile_width(0) == 2048


def test_the_width_is_ours_inside_and_on_a_cpu_alone():
    with fitting_tiles("cpu", 600):
        assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == 1024
    with fitting_tiles("cuda", 600):
        assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == THEIRS
    with pytest.raises(ZeroDivisionError), fitting_tiles("cpu", 600):
        raise ZeroDivisionError
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == THEIRS


@pytest.mark.parametrize("checkpointing", [False, True])
def test_many_tiles_score_as_one_does(monkeypatch, checkpointing):
    """Words of every tile are answers: the last tile is a short one."""
    torch.manual_seed(0)
    model = with_fused_head(LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 5000})))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    batch = edge_cases()["varied"]
    batch["input_ids"] = batch["input_ids"] * 4999 // batch["input_ids"].max()
    expected = scores_and_gradients(model, batch)
    assert enable_packing(model) is None
    widths = []
    forward = utils._ChunkedLogProbFunction.apply
    function = type("Function", (), {"apply": lambda *given: widths.append(given[5]) or forward(*given)})
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", function)
    assert_same(scores_and_gradients(model, batch, packs_of(batch, budget=20)), expected)
    assert set(widths) == {2048}
