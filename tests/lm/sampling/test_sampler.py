"""Sampling that is interrupted and continued."""

from __future__ import annotations

import pytest

from ropo.lm.sampling import Sampler, SamplingSettings, sample_with_journal
from tests.tiny.sampled import sampled_batches, save_tiny, tiny_prompts

SETTINGS = SamplingSettings(samples=2, max_new_tokens=8, seed=1)


class Interrupted(Exception):
    """What the test raises in the middle of a run."""


def run(model, path, stop_after=None):
    batches = []

    def on_batch(batch):
        batches.append(batch)
        if len(batches) == stop_after:
            raise Interrupted

    with Sampler(model) as sampler:
        sample_with_journal(sampler, tiny_prompts(), SETTINGS, 4, path, on_batch)
    return batches


def test_a_continued_run_samples_only_what_is_left_and_ends_in_the_same_file(tmp_path, monkeypatch):
    model = save_tiny(tmp_path / "model")
    whole = run(model, tmp_path / "whole")
    assert len(whole) == 4
    with pytest.raises(Interrupted):
        run(model, tmp_path / "cut", stop_after=2)

    sampled = sampled_batches(monkeypatch)
    assert run(model, tmp_path / "cut") == whole
    assert sampled == [2, 3]
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert run(model, tmp_path / "cut") == whole
    assert sampled == [2, 3], "a complete journal needs no more sampling"
