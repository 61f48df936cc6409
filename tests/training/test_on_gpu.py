"""Packed training on a GPU: equal to padded, equal to TRL's, resumed as if nothing had happened."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import DPOConfig, DPOTrainer

from ropo import RopoConfig
from ropo.lm.packing.attention import no_mask, packed_attention
from ropo.lm.packing.layout import pack_batch
from ropo.training.callbacks.trial import GpuMemory, TrialStep
from ropo.training.config import PreferenceConfig
from ropo.training.packing.fused import enable_packing
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import CONFIGS, tiny_model, tiny_pairs, tiny_tokenizer
from tests.training import trainers
from tests.training.packing_helpers import edge_cases, with_fused_head

pytestmark = pytest.mark.gpu

STEPS = 20 if torch.cuda.is_available() else 3  # tests/training/test_trainer.py takes all of them on a CPU
HALVES = [torch.bfloat16, torch.float16]


def batch_on(device: torch.device, case: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in edge_cases()[case].items()}


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_in_half_precision_equals_float32(gpu, window, width, dtype):
    """By the variable-length kernel on the one side, segment by segment on the other; gradients too."""
    batch = batch_on(gpu, "varied")
    (pack,) = pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    half = [torch.randn(1, count, pack.tokens, width, device=gpu).to(dtype).requires_grad_() for count in (4, 2, 2)]
    wide = [tensor.detach().float().requires_grad_() for tensor in half]
    call = {"scaling": 0.1, "sliding_window": window, "pack": pack}
    found, expected = (packed_attention(torch.nn.Module(), *each, no_mask(gpu), **call)[0] for each in (half, wide))
    grad = torch.randn_like(expected)
    grads = torch.autograd.grad(found, half, grad.to(dtype)), torch.autograd.grad(expected, wide, grad)
    tolerance = 4 * torch.finfo(dtype).eps  # of norms: a rounding of scores, of weights and of the result
    for ours, truth in zip((found, *grads[0]), (expected, *grads[1]), strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - truth).norm() <= tolerance * truth.norm()


def answer_log_probs(model, batch, packs) -> torch.Tensor:
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model(**inputs, labels=labels, fused_lm_head=True, **({"packs": packs} if packs else {})).log_probs


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_equals_padded(gpu, name, dtype):
    """In bfloat16 neither is exact: packed may be off from float64 by twice as much as padded is."""
    batch = batch_on(gpu, "identical prompts")
    exact = with_fused_head(tiny_model(name).double().to(gpu))
    padded, packed = (with_fused_head(tiny_model(name).to(dtype).to(gpu)) for _ in range(2))
    assert enable_packing(packed) is None
    packs = pack_batch(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    results = []
    for model, given in ((exact, None), (padded, None), (packed, packs)):
        log_probs = answer_log_probs(model, batch, given)
        log_probs.float().square().sum().backward()
        grads = [model.get_input_embeddings().weight.grad, model.base_model.layers[0].self_attn.v_proj.weight.grad]
        results.append([each.detach().double() for each in (log_probs, *grads)])
    floor = 1e-4 if dtype == torch.float32 else 0.0
    for truth, theirs, ours in zip(*results, strict=True):
        off, allowed = ((each - truth).norm() / truth.norm() for each in (ours, theirs))
        assert off <= max(2 * allowed, floor)


def options(folder, gpu, **changes):
    return trainers.options(folder, **{"max_steps": STEPS, "use_cpu": gpu.type == "cpu", **changes})


def losses(trainer) -> list[float]:
    trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def train_both(gpu, folder, model, **changes):
    plain = {"gradient_checkpointing": False}
    found = []
    for trainer, config, more in ((PreferenceTrainer, PreferenceConfig, {}), (DPOTrainer, DPOConfig, plain)):
        found.append(
            losses(
                trainer(
                    copy.deepcopy(model),
                    args=config(**options(folder / trainer.__name__, gpu, **more, **changes)),
                    train_dataset=tiny_pairs(24),
                    processing_class=tiny_tokenizer(),
                    peft_config=RopoConfig(),
                )
            )
        )
    return found


def test_twenty_steps_equal_trls_in_float32(gpu, tmp_path):
    ours, theirs = train_both(gpu, tmp_path, tiny_model(), bf16=False)
    assert len(ours) == len(theirs) == STEPS
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)  # the bound on CPUs, where 1e-6 is seen
    assert len(set(theirs)) > 1


def head_64() -> LlamaConfig:
    """Heads as wide as the kernel's, unlike the tiny models'."""
    return LlamaConfig(**{**CONFIGS["llama"].to_dict(), "hidden_size": 256, "intermediate_size": 128, "head_dim": 64})


def test_twenty_steps_in_bfloat16_stay_beside_trls(gpu, tmp_path):
    """Log-probs of some -40 have 8 bits under bfloat16, so losses of a batch differ by their rounding times beta."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(head_64(), dtype=torch.bfloat16)
    ours, theirs = train_both(gpu, tmp_path, model, bf16=True, learning_rate=1e-3)
    assert len(ours) == len(theirs) == STEPS
    assert ours == pytest.approx(theirs, abs=3e-2)


def test_a_trial_step_measures_the_device(gpu, tmp_path):
    if gpu.type == "cpu":
        pytest.skip("measures a GPU's memory; tests/training/callbacks/test_trial.py counts a CPU's")
    settings = PreferenceConfig(**options(tmp_path, gpu, max_steps=1, bf16=True))
    data = {"train_dataset": tiny_pairs(24), "processing_class": tiny_tokenizer(), "peft_config": RopoConfig()}
    trainer = PreferenceTrainer(tiny_model(), args=settings, **data)
    trial = TrialStep(trainer, GpuMemory(), print)
    trainer.add_callback(trial)
    trainer.train()
    assert 0 < trial.found["peak_bytes"] < trial.found["free_bytes"] <= torch.cuda.mem_get_info()[1]


def test_a_resumed_run_ends_where_it_would_have(gpu, tmp_path):
    def trainer(folder, steps):
        changes = {"bf16": True, "max_steps": steps, "save_strategy": "steps", "save_steps": 3}
        return PreferenceTrainer(
            tiny_model(),
            args=PreferenceConfig(**options(tmp_path / folder, gpu, lr_scheduler_type="constant", **changes)),
            train_dataset=tiny_pairs(24),
            processing_class=tiny_tokenizer(),
            peft_config=RopoConfig(),
        )

    whole, first = trainer("whole", 6), trainer("parts", 3)
    whole.train()
    first.train()
    second = trainer("parts", 6)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    assert second.state.global_step == 6
    compared = 0
    for (name, ours), (_, theirs) in zip(second.model.named_parameters(), whole.model.named_parameters(), strict=True):
        if ours.requires_grad:
            # a GPU adds some gradients in any order: Adam's step of 1e-2 turns with the sign of what is nearly zero
            torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-2, msg=name)
            assert (ours - dict(first.model.named_parameters())[name]).abs().max() > 1e-3, name
            compared += 1
    assert compared == 12


def test_a_token_budget_changes_memory_not_numbers(gpu, tmp_path):
    """Cut into packs that are computed again in the backward pass."""
    found = []
    for budget in (None, 60):
        trainer = PreferenceTrainer(
            tiny_model(),
            args=PreferenceConfig(
                **options(tmp_path / str(budget), gpu, bf16=False, max_steps=4, tokens_per_step=budget)
            ),
            train_dataset=tiny_pairs(24),
            processing_class=tiny_tokenizer(),
            peft_config=RopoConfig(),
        )
        found.append(losses(trainer))
    assert len(found[0]) == 4
    assert found[0] == pytest.approx(found[1], abs=1e-4)
