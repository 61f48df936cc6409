"""Pairs that several processes compute together are trained as in one process."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import ParallelismConfig
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from trl.trainer.utils import add_fused_lm_head

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.distributed import sequence
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.distributed.sharded import (
    FSDP2,
    Sharded,
    deepspeed_environment,
    with_deepspeed,
    write_deepspeed,
)
from tests.training.distributed.trajectories import SHARE, assert_same_trajectory, train
from tests.training.packing_helpers import draw, padded_batch
from tests.training.together import run_together

EXACT = 1e-5  # float32, log-probs of about -60
TOGETHER = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_SP_SIZE": "2"}


def log_probs_and_gradients(name: str, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Compute answers' log-probs, the loss and gradients, averaged as data parallelism does where there are several."""
    model, processes = tiny_model(name), int(os.environ.get("WORLD_SIZE", "1"))
    add_fused_lm_head(model)
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    more = {}
    if processes > 1:
        torch.distributed.init_process_group("gloo")
        more["mesh"] = init_device_mesh("cpu", (processes,))
        sequence.take_parts(model)
    prompt, chosen, short, rejected = draw(3, 6, 12, 2, 9)
    batch = padded_batch([(prompt, chosen, rejected), (short, rejected, chosen[:3])])  # 18 tokens, or 17 and a spare
    batch = {each: value[:, : 17 if name == "qwen2" else None] for each, value in batch.items()}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    scores = model(**inputs, labels=labels, **more, fused_lm_head=True).log_probs
    better, worse = scores.sum(dim=1).chunk(2)
    loss = -F.logsigmoid(0.1 * (better - worse)).mean()
    loss.backward()
    found = {each: weight.grad for each, weight in model.named_parameters()}
    if processes > 1:
        for gradient in found.values():
            torch.distributed.all_reduce(gradient)
            gradient /= processes
    return {"scores": scores.detach(), "answers": torch.cat([better, worse]).detach(), "loss": loss.detach(), **found}


@pytest.mark.parametrize(
    ("name", "checkpointing", "count"),
    [
        ("llama", False, 2),
        ("llama", True, 2),
        pytest.param("qwen2", False, 2, marks=pytest.mark.slow),
        pytest.param("qwen3", False, 2, marks=pytest.mark.slow),
        pytest.param("gpt2", False, 4, marks=pytest.mark.slow),
    ],
)
def test_log_probs_loss_and_gradients_are_those_of_one_process(tmp_path, name, checkpointing, count):
    one = log_probs_and_gradients(name, checkpointing)
    assert one["answers"].min() < -10
    for found in run_together(log_probs_and_gradients, tmp_path, name, checkpointing, count=count):
        assert found.keys() == one.keys()
        for each, expected in one.items():
            assert torch.allclose(found[each], expected, atol=EXACT, rtol=EXACT), each
    assert any(one[each].abs().max() > 0.1 for each in one if each.endswith("weight"))


def train_together(folder, method: str, changes: dict) -> dict:
    """Train with the batch of one process in each."""
    return train(folder, method, 2, per_device_train_batch_size=SHARE * 2, **changes)


@pytest.mark.parametrize(
    ("method", "sharding"),
    [
        pytest.param("ropo", {}, id="ropo"),
        *(
            pytest.param(method, sharding, marks=pytest.mark.slow, id=f"{method}-{'fsdp2' if sharding else 'ddp'}")
            for method, sharding in (("full", {}), ("ropo", FSDP2), ("full", FSDP2), ("lora", FSDP2))
        ),
    ],
)
def test_the_trajectory_is_that_of_one_process(tmp_path, method, sharding):
    two = run_together(train_together, tmp_path / "log", tmp_path / "two", method, {}, **TOGETHER, **sharding)
    one = train(tmp_path / "one", method, 1)
    assert two[0]["seen"] == two[1]["seen"] == one["seen"]
    assert_same_trajectory(two, one)
    assert two[0]["held_out"][1] == pytest.approx(one["held_out"][1], abs=1e-3)
    said = (tmp_path / "log" / "log0").read_text()
    assert said.count("training padded: LlamaForCausalLM cannot be packed, each pair is cut over 2 processes") == 1


def few_steps(folder, stage: int | None, resumed: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train all weights for four steps, or the last two of them."""
    flags = {"use_cpu": True}
    if stage is not None:
        write_deepspeed(folder, stage)
        flags = {"use_cpu": False, "ddp_backend": "gloo"}
    torch.manual_seed(0)
    options = {"learning_rate": 1e-3, "max_steps": 4, "logging_steps": 1, "save_steps": 2, "report_to": "none"}
    trainer = Sharded(
        tiny_model(),
        ref_model=tiny_model(),
        args=PreferenceConfig(str(folder), disable_tqdm=True, per_device_train_batch_size=4, **options, **flags),
        train_dataset=tiny_pairs(11),
        processing_class=tiny_tokenizer(),
    )
    trainer.train(str(folder / "checkpoint-2") if resumed else None)
    trainer.save_model(str(folder / "saved"))
    trainer.accelerator.wait_for_everyone()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, load_file(folder / "saved" / "model.safetensors")


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_pairs_together(tmp_path, stage):
    losses, weights = few_steps(tmp_path / "one", None)
    found = run_together(few_steps, tmp_path, tmp_path / "two", stage, **TOGETHER, **deepspeed_environment())
    for each in found:
        assert each[0] == pytest.approx(losses, abs=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(found[0][1][name], weight, atol=1e-5), name


@pytest.mark.slow
def test_one_process_goes_on_from_a_checkpoint_of_two(tmp_path):
    losses, weights = few_steps(tmp_path / "one", None)
    run_together(few_steps, tmp_path / "log", tmp_path / "two", None, **TOGETHER)
    resumed = few_steps(tmp_path / "two", None, resumed=True)
    assert resumed[0] == pytest.approx(losses, abs=1e-5)
    assert all(torch.allclose(resumed[1][name], weight, atol=1e-5) for name, weight in weights.items())


def what_is_refused(folder, exchanged: bool) -> str:
    """Say what a run whose messages do nothing is told."""
    if not exchanged:
        sequence._exchange = lambda each, *_: each
    with pytest.raises(UserError) as caught:
        few_steps(folder, None)
    return str(caught.value)


def test_a_model_that_computes_something_else_is_refused(tmp_path):
    for said in run_together(what_is_refused, tmp_path / "log", tmp_path / "two", False, **TOGETHER):
        assert "LlamaForCausalLM cannot be cut over processes, its log-probs come out differently; leave it" in said


@pytest.mark.parametrize(
    ("name", "processes", "why"),
    [
        ("llama", 3, "its 4 heads of queries and 2 of keys cannot be dealt out to 3"),
        ("mistral", 2, "it has layers that see a window"),
        ("gemma3", 2, "it has layers that see a window"),
    ],
)
def test_models_that_cannot_be_cut(name, processes, why):
    assert sequence.obstacle(tiny_model(name), processes) == why


def test_what_is_asked_for(monkeypatch):
    config = PreferenceConfig("unused", use_cpu=True)
    assert sequence.processes_of_a_pair(config) == sequence.sharers(config) == 1
    config.parallelism_config = ParallelismConfig(cp_size=2)
    with pytest.raises(UserError, match=r"parallelism_config cp_size: .* set sp_size instead"):
        sequence.processes_of_a_pair(config)
    config.parallelism_config = None
    for name, value in TOGETHER.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"sp_size: all 1 process\(es\) have to compute a pair together, not 2"):
        sequence.processes_of_a_pair(config)


def test_packs_are_not_cut(tmp_path):
    with pytest.raises(UserError, match="tokens_per_step: cuts packs, and with sp_size nothing is packed"):
        sequence.SplitSequences(SimpleNamespace(args=SimpleNamespace(tokens_per_step=8)), 2)
