"""Reference log-probs are kept on disk, shared where they may be and never stale."""

from __future__ import annotations

import datasets
import pytest
import torch
from peft import HRAConfig, LoraConfig, get_peft_model

from ropo import RopoConfig
from ropo.training.config import PreferenceConfig
from ropo.training.precomputed import cache_key, reference_weights
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.trainers import LORA, logged, options

ADAPTERS = {
    "lora": LoraConfig(**LORA),
    "ropo": RopoConfig(target_modules=["q_proj", "v_proj"]),
    "hra": HRAConfig(r=2, target_modules=["q_proj", "v_proj"]),
    "saved": LoraConfig(**LORA, modules_to_save=["norm"]),
}


@pytest.fixture
def computed(monkeypatch, tmp_path) -> list[int]:
    """Keep the cache apart and count the batches that the reference is computed for before training."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    calls: list[int] = []
    compute = PreferenceTrainer.compute_ref_log_probs

    def counted(self, model, inputs):
        calls.append(len(inputs["input_ids"]))
        return compute(self, model, inputs)

    monkeypatch.setattr(PreferenceTrainer, "compute_ref_log_probs", counted)
    return calls


def make(folder, *, model=None, data=None, tokenizer=None, adapter="lora", **changes):
    return PreferenceTrainer(
        tiny_model() if model is None else model,
        args=PreferenceConfig(**options(folder, **{"max_steps": 3, "precompute_ref_log_probs": True, **changes})),
        train_dataset=tiny_pairs(12) if data is None else data,
        processing_class=tokenizer or tiny_tokenizer(),
        peft_config=ADAPTERS.get(adapter),
    )


def test_training_on_kept_log_probs_is_training_on_computed_ones(tmp_path, computed):
    live = make(tmp_path / "live", precompute_ref_log_probs=False)
    live.train()
    fresh = make(tmp_path / "fresh")
    assert computed == [8, 8, 8]  # 12 pairs, 4 at a time
    fresh.train()
    kept = make(tmp_path / "kept")
    assert len(computed) == 3
    kept.train()
    assert logged(fresh, "loss") == pytest.approx(logged(live, "loss"), abs=1e-5)
    assert logged(kept, "loss") == logged(fresh, "loss")


def test_methods_and_runs_share_an_entry(tmp_path, computed):
    for number, adapter in enumerate(["lora", "ropo", "hra", "saved", "full"]):
        make(tmp_path / adapter, adapter=adapter, seed=number, learning_rate=1e-3 * number)
    assert len(computed) == 3


def test_the_pre_pass_shows_how_far_it_is_unless_told_not_to(tmp_path, computed, capsys, monkeypatch):
    monkeypatch.setattr("ropo.core.progress._PAUSE", 0.0)  # else a line every half a minute
    make(tmp_path / "silent")
    assert "reference log-probs" not in capsys.readouterr().err
    make(tmp_path / "shown", disable_tqdm=False, max_length=30)
    assert "reference log-probs, train" in capsys.readouterr().err
    assert len(computed) == 6


def other_weights():
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    return model


def other_configuration():
    model = tiny_model()
    model.config.rms_norm_eps = 1e-3
    return model


def other_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(" <eos> ", " <eos> <eos> ")
    return tokenizer


STALE = {
    "weights": lambda: {"model": other_weights()},
    "configuration": lambda: {"model": other_configuration()},
    "template": lambda: {"tokenizer": other_tokenizer()},
    "records": lambda: {"data": tiny_pairs(12, seed=1)},
    "order": lambda: {"data": tiny_pairs(12).select(range(11, -1, -1))},
    "truncation": lambda: {"max_length": 14},
    "weighting": lambda: {"ld_alpha": 0.5},
    "precision": lambda: {"bf16": True},
}


@pytest.mark.parametrize("change", STALE)
def test_a_change_of_anything_that_matters_computes_anew(change, tmp_path, computed):
    make(tmp_path)
    before = len(computed)
    assert before == 3
    make(tmp_path, **STALE[change]())
    assert len(computed) > before


def test_an_adapter_that_training_continues_from_is_part_of_the_reference():
    data = tiny_pairs(2).map(lambda _: {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]})

    def continued(seed, alpha=8):
        config = LoraConfig(**LORA, init_lora_weights=False, lora_alpha=alpha)
        base = tiny_model()
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
        model.add_adapter("ref", config)
        return model

    assert cache_key(data, continued(1), {}) == cache_key(data, continued(1), {})
    assert cache_key(data, continued(1), {}) != cache_key(data, continued(2), {})
    assert cache_key(data, continued(1), {}) != cache_key(data, continued(1, alpha=16), {})
    assert cache_key(data, continued(1), {}) != cache_key(data, tiny_model(), {})


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_reference_weights_are_the_base_models_under_its_names(adapter):
    plain = tiny_model().state_dict()
    wrapped = reference_weights(get_peft_model(tiny_model(), ADAPTERS[adapter]))
    assert wrapped.keys() == plain.keys()
    assert all(torch.equal(wrapped[name], plain[name]) for name in plain)
