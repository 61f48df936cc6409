"""Journals, rows and answers that are kept: nothing is computed twice, and a kill loses one chunk."""

from __future__ import annotations

import shutil

import pytest

from ropo.core.errors import UserError
from ropo.core.kept import Journal, kept_rows
from ropo.evaluation.contestants import Contestant, answer_prompts
from ropo.lm.sampling import Sampler, SamplingSettings, sample_with_journal, sampler
from tests.tiny.sampled import sampled_batches, save_tiny, tiny_prompts


class Work:
    """Count the rows computed; die at one."""

    def __init__(self, dies_at=None):
        self.dies_at, self.computed = dies_at, []

    def __call__(self, start):
        for first in range(start, 10, 3):
            if self.dies_at is not None and first >= self.dies_at:
                raise KeyboardInterrupt
            chunk = list(range(first, min(first + 3, 10)))
            self.computed += chunk
            yield [[number, number / 3] for number in chunk]


ROWS = [[number, number / 3] for number in range(10)]


def test_rows_are_computed_once(tmp_path):
    work, steps = Work(), []
    for _ in range(2):
        assert kept_rows(tmp_path, {"model": "a"}, 10, work, steps.append) == ROWS
    assert work.computed == list(range(10))
    assert steps == [0, 3, 3, 3, 1, 10]


def test_a_killed_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        kept_rows(tmp_path, {"model": "a"}, 10, Work(dies_at=6))
    (journal,) = tmp_path.iterdir()
    journal.write_text(journal.read_text() + '{"rows": [[6')  # torn by the kill
    work = Work()
    assert kept_rows(tmp_path, {"model": "a"}, 10, work) == ROWS
    assert work.computed == [6, 7, 8, 9]


def test_other_content_is_other_rows(tmp_path):
    works = [Work(), Work()]
    for name, work in zip("ab", works, strict=True):
        kept_rows(tmp_path, {"model": name}, 10, work)
    assert [len(work.computed) for work in works] == [10, 10]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("models") / "model")


SETTINGS = SamplingSettings(samples=2, max_new_tokens=5)


def ask(source, cache, settings=SETTINGS, **options):
    return answer_prompts(Contestant("x", source), tiny_prompts(), settings, 6, cache, **options)


def test_answers_are_those_of_the_sampler_in_the_order_of_the_prompts(model, tmp_path):
    direct = {}

    def keep(batch):
        direct.update(zip(batch.prompts, batch.answers, strict=True))

    with Sampler(model) as opened:
        sample_with_journal(opened, tiny_prompts(), SETTINGS, 6, tmp_path / "journal", keep)
    assert ask(model, tmp_path / "cache") == [direct[number] for number in range(7)]
    assert len({answer.text for group in direct.values() for answer in group}) > 3


def test_a_copy_of_the_model_needs_no_sampling(model, tmp_path, monkeypatch):
    first = ask(model, tmp_path / "cache")
    copy = shutil.copytree(model, tmp_path / "copy")
    monkeypatch.setattr(sampler, "load_sampler_model", None)  # a call would fail
    assert ask(str(copy), tmp_path / "cache") == first
    with pytest.raises(TypeError):
        ask(model, tmp_path / "cache", SamplingSettings(samples=2, max_new_tokens=5, seed=1))


def test_killed_sampling_goes_on(model, tmp_path, monkeypatch):
    whole = ask(model, tmp_path / "whole")
    seen = []

    def die(batch):
        seen.append(batch.number)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(model, tmp_path / "cache", on_batch=die)
    sampled = sampled_batches(monkeypatch)
    assert ask(model, tmp_path / "cache") == whole
    assert seen == [0, 1]
    assert sampled == [2]


def test_no_prompts_no_model(tmp_path):
    assert answer_prompts(Contestant("x", "org/nothing"), [], SETTINGS, 6, tmp_path) == []


def fill(path, header, *entries):
    journal = Journal(path, header)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return journal


def test_a_file_cut_at_any_byte_gives_a_beginning_of_the_entries(tmp_path):
    path, header, entries = tmp_path / "deep" / "journal", {"seed": 1}, [{"n": 0}, {"n": 1, "t": "ä\n"}, {"n": 2}]
    fill(path, header, *entries)
    whole = path.read_bytes()
    seen = set()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = list(fill(path, header).entries)
        assert kept == entries[: len(kept)]
        fill(path, header, *entries[len(kept) :])
        assert path.read_bytes() == whole
        seen.add(len(kept))
    assert seen == {0, 1, 2, 3}


def test_another_header_is_refused_and_nothing_lost(tmp_path):
    path = tmp_path / "journal"
    fill(path, {"seed": 1, "model": "m"}, {"n": 0})
    before = path.read_bytes()
    with pytest.raises(UserError, match="was begun with seed 1, now 2"):
        Journal(path, {"seed": 2, "model": "m"})
    assert path.read_bytes() == before
