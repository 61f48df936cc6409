"""Sampling that is interrupted and continued."""

from __future__ import annotations

import pytest
import torch

from ropo.core.errors import UserError
from ropo.lm.sampling import Sampler, SamplingSettings, sample_with_journal
from tests.tiny.sampled import sampled_batches, save_tiny, tiny_model, tiny_prompts

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


def test_a_journal_of_another_model_of_the_same_name_is_refused(tmp_path):
    """Runs have `checkpoint-100` each, and a policy that is trained further may keep its folder."""
    first, second = save_tiny(tmp_path / "one" / "final"), save_tiny(tmp_path / "two" / "final")
    other = tiny_model()
    with torch.no_grad():
        other.lm_head.weight.add_(1.0)
    other.save_pretrained(second)
    run(first, tmp_path / "journal")
    kept = (tmp_path / "journal").read_bytes()
    with pytest.raises(UserError, match=r"journal: was begun with fingerprint [0-9a-f]{16}, now [0-9a-f]{16}; delete"):
        run(second, tmp_path / "journal")
    assert (tmp_path / "journal").read_bytes() == kept
    copied = save_tiny(tmp_path / "three" / "final")
    assert len(run(copied, tmp_path / "journal")) == 4, "a copy elsewhere is the same model"
