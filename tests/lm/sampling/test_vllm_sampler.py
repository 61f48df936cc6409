"""Sampling through vLLM, with a stand-in for it: it needs a GPU. What is tested is what we ask of it and make of it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from ropo.core.errors import UserError
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import Sampler, SamplingSettings, sample_with_journal, sampling_backend, vllm_sampler
from tests.tiny.sampled import TEXTS, save_adapter, save_tiny, tiny_prompts

SETTINGS = SamplingSettings(samples=2, temperature=0.7, top_p=0.9, max_new_tokens=8, seed=1)


@pytest.fixture
def asked(monkeypatch) -> list:
    """Install the stand-in: it answers with its prompt's ids and remembers what it was asked."""
    requests: list = []

    class Engine:
        def __init__(self, model):
            self.weights = AutoModelForCausalLM.from_pretrained(model).model.layers[0].self_attn.q_proj.weight
            requests.append(("load", model, float(self.weights.detach().sum())))

        def generate(self, prompts, parameters, use_tqdm):
            requests.extend(
                (prompt["prompt_token_ids"], each) for prompt, each in zip(prompts, parameters, strict=True)
            )
            return [SimpleNamespace(outputs=self.complete(prompt, 2)) for prompt in prompts]

        def complete(self, prompt, samples):
            ids = prompt["prompt_token_ids"]
            reasons = ("stop", "length")
            return [SimpleNamespace(text=f" {ids} ", token_ids=ids, finish_reason=reasons[n]) for n in range(samples)]

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, lambda **parameters: parameters
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_sampler, "version", lambda name: "9.9")
    monkeypatch.setattr(vllm_sampler, "_has_gpu", lambda: True)
    return requests


def sample(source, path):
    batches = []
    with Sampler(source) as sampler:
        sample_with_journal(sampler, tiny_prompts(), SETTINGS, 6, path, batches.append)
    return batches


def test_every_prompt_is_asked_once_with_its_settings(tmp_path, asked):
    model = save_tiny(tmp_path / "model")
    batches = sample(model, tmp_path / "journal")
    assert [len(batch.prompts) for batch in batches] == [3, 3, 1]
    assert asked[0][:2] == ("load", model)
    assert len(asked) == 1 + len(TEXTS)
    seeds = {parameters.pop("seed") for _, parameters in asked[1:]}
    assert len(seeds) == len(TEXTS)
    for _, parameters in asked[1:]:
        expected = {"n": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 8}
        assert parameters == {**expected, "stop_token_ids": [load_tokenizer(model).eos_token_id]}
    ids, _ = asked[1]
    first = batches[0].answers[0]
    said = tuple(ids)
    assert [(answer.text, answer.tokens, answer.finished) for answer in first] == [
        (str(ids), said, True),
        (str(ids), said, False),
    ]
    assert sample(model, tmp_path / "journal") == batches
    assert len(asked) == 1 + len(TEXTS)


def test_an_open_sampler_loads_its_engine_once_and_only_when_it_is_needed(tmp_path, asked):
    with Sampler(save_tiny(tmp_path / "model")) as sampler:
        assert sampler.tokenizer
        assert not asked
        for name in ("one", "two"):
            sample_with_journal(sampler, tiny_prompts(), SETTINGS, 6, tmp_path / name, lambda batch: None)
    assert [request[0] for request in asked].count("load") == 1
    assert len(asked) == 1 + 2 * len(TEXTS)


def test_a_killed_run_asks_only_what_is_left(tmp_path, asked):
    model = save_tiny(tmp_path / "model")

    def die(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Sampler(model) as sampler:
        sample_with_journal(sampler, tiny_prompts(), SETTINGS, 6, tmp_path / "journal", die)
    asked.clear()
    assert [batch.number for batch in sample(model, tmp_path / "journal")] == [0, 1, 2]
    assert len(asked) == 1 + 4


def test_an_adapter_is_merged_into_a_folder_that_goes_away(tmp_path, asked):
    adapter = save_adapter(save_tiny(tmp_path / "model"), tmp_path / "adapter")
    sample(adapter, tmp_path / "journal")
    sample(str(tmp_path / "model"), tmp_path / "other")
    (_, merged, weight), (_, plain, before) = (request for request in asked if request[0] == "load")
    assert not Path(merged).exists()
    assert plain == str(tmp_path / "model")
    assert weight != before


def test_a_journal_of_one_backend_is_not_continued_by_the_other(tmp_path, asked, monkeypatch):
    model = save_tiny(tmp_path / "model")
    sample(model, tmp_path / "journal")
    monkeypatch.setattr(vllm_sampler, "_has_gpu", lambda: False)
    with pytest.raises(UserError, match=r"was begun with backend vllm 9\.9, now None"):
        sample(model, tmp_path / "journal")


def test_ours_without_a_gpu_or_without_vllm(asked, monkeypatch):
    assert sampling_backend() == "vllm 9.9"
    monkeypatch.setattr(vllm_sampler, "_has_gpu", lambda: False)
    assert sampling_backend() == "transformers"
    monkeypatch.setattr(vllm_sampler, "_has_gpu", lambda: True)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vllm_sampler, "version", missing)
    assert sampling_backend() == "transformers"
