"""Two processes against one: the same trajectory, every pair once, one correct adapter, no duplicates."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.distributed.sharding import keep_adapters_whole
from ropo.training.finite import BatchLoss
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import VOCABULARY, tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.distributed.sharded import FSDP2, METHODS
from tests.training.distributed.trajectories import assert_same_trajectory, train
from tests.training.together import run_together

POISON = f"w{VOCABULARY - 7}"  # the last word, whose embedding is made NaN


def train_on_poison(folder, accumulation: int) -> dict:
    """Train on twelve pairs of which the eighth gives a loss that is NaN, in one process: stop, and then skip."""
    rows = [{"prompt": f"w{i} w{i + 1} ", "chosen": f"w{i + 2} w3", "rejected": f"w{i + 4}"} for i in range(12)]
    rows[7]["chosen"] = f"w1 {POISON}"
    result = {}
    for skip in (False, True):
        model = tiny_model()
        with torch.no_grad():
            model.get_input_embeddings().weight[VOCABULARY - 1] = math.nan
        options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation, "logging_steps": 1}
        options |= {"train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 1}
        options |= {"lr_scheduler_type": "constant", "num_train_epochs": 1, "use_cpu": True, "report_to": "none"}
        args = PreferenceConfig(str(folder / str(skip)), disable_tqdm=True, skip_non_finite=skip, **options)
        trainer = PreferenceTrainer(
            model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny_tokenizer(),
            peft_config=METHODS["lora"](),
        )
        error = None
        try:
            trainer.train()
        except UserError as caught:
            error = str(caught)
        weights = {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}
        result[skip] = (error, trainer.state.global_step, trainer._finite.skipped_steps, weights)
    return result


def adapters_after_sharing() -> tuple[dict, dict, int]:
    """Give this process an adapter of its own, have FSDP's preparation share it, and return it before and after."""
    torch.distributed.init_process_group("gloo")
    model = get_peft_model(tiny_model(), METHODS["lora"]())
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.distributed.get_rank())
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    accelerator = SimpleNamespace(device=torch.device("cpu"), state=SimpleNamespace(fsdp_plugin=SimpleNamespace()))
    averaged = keep_adapters_whole(model, accelerator)
    return before, {name: each.detach() for name, each in model.named_parameters()}, len(averaged)


def assert_every_pair_once(two: list[dict], pairs: int, epochs: int) -> None:
    batches = [first + second for first, second in zip(two[0]["seen"], two[1]["seen"], strict=True)]
    assert all(first and second for first, second in zip(two[0]["seen"], two[1]["seen"], strict=True))
    steps = len(batches) // epochs
    for epoch in range(epochs):
        numbers = [number for batch in batches[epoch * steps : (epoch + 1) * steps] for number in batch]
        assert sorted(numbers) == list(range(pairs))


def assert_saved(folder, result: dict) -> None:
    """What a plain process reads back is what the processes had in memory."""
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved
    assert {name.replace(".default", "") for name in result["weights"]} == set(saved)
    for name, weight in result["weights"].items():
        assert torch.equal(saved[name.replace(".default", "")], weight)
    merged = PeftModel.from_pretrained(tiny_model(), str(folder)).merge_and_unload()
    assert not torch.equal(
        merged.model.layers[0].self_attn.q_proj.weight, tiny_model().model.layers[0].self_attn.q_proj.weight
    )


def test_ddp_gives_the_trajectory_of_one_process(tmp_path):
    """Twenty-seven pairs in batches of four: the last of an epoch has three, two and one."""
    two = run_together(train, tmp_path / "log", tmp_path / "two", "ropo", 2)
    one = train(tmp_path / "one", "ropo", 1)
    assert_same_trajectory(two, one)
    assert_every_pair_once(two, 27, epochs=3)
    assert_saved(tmp_path / "two", two[0])
    for found, expected in zip(two[0]["held_out"], one["held_out"], strict=True):
        assert found.shape == expected.shape == (5, 2)
        assert found == pytest.approx(expected, abs=1e-3)
    unequal = [sorted(map(len, both)) for both in zip(two[0]["seen"], two[1]["seen"], strict=True)].count([1, 2])
    assert unequal == 3  # epochs


def test_fsdp2_gives_the_trajectory_of_one_process(tmp_path):
    two = run_together(train, tmp_path / "log", tmp_path / "two", "ropo", 2, **FSDP2)
    one = train(tmp_path / "one", "ropo", 1)
    trained, frozen = two[0]["kinds"]
    assert trained == {("Parameter", "torch.float32")}
    assert "DTensor" in frozen  # but for what FSDP keeps whole from the forward to the backward pass
    assert_same_trajectory(two, one)
    assert_every_pair_once(two, 27, epochs=3)
    assert_saved(tmp_path / "two", two[0])
    assert two[0]["held_out"][1] == pytest.approx(one["held_out"][1], abs=1e-3)


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_all_processes_stop_at_a_fault_of_one_or_skip_it(tmp_path, accumulation):
    """The poison is in the fourth batch of two: the fourth step, or, with two batches a step, the second."""
    step = 4 // accumulation
    first, second = run_together(train_on_poison, tmp_path / "log", tmp_path / "run", accumulation)
    assert first[False][0] == second[False][0]
    assert f"the loss is nan at step {step}, in the records 7 of" in first[False][0]
    assert f"{tmp_path}/run/False/checkpoint-{step - 1};" in first[False][0]
    assert [each[False][1:3] for each in (first, second)] == [(step - 1, 0)] * 2
    assert [each[True][:3] for each in (first, second)] == [(None, 6 // accumulation, 1)] * 2
    for skip in (False, True):
        for name, weight in first[skip][3].items():
            assert torch.equal(weight, second[skip][3][name]), name
            assert weight.isfinite().all()


def train_where_one_loses(folder) -> tuple[str, int]:
    """Train where the loss of the second process alone is lost in its third step, and its gradients are not."""

    class Losing(PreferenceTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            if os.environ["RANK"] == "1" and self.state.global_step == 2:
                self._finite.batches[-1] = BatchLoss(math.inf, self._finite.batches[-1].records)
            return loss

    options = {"per_device_train_batch_size": 1, "save_strategy": "no", "use_cpu": True, "report_to": "none"}
    trainer = Losing(
        tiny_model(),
        args=PreferenceConfig(str(folder), disable_tqdm=True, **options),
        train_dataset=tiny_pairs(12),
        processing_class=tiny_tokenizer(),
        peft_config=METHODS["lora"](),
    )
    with pytest.raises(UserError) as error:
        trainer.train()
    return str(error.value), trainer.state.global_step


def test_what_only_one_process_sees_stops_all(tmp_path):
    first, second = run_together(train_where_one_loses, tmp_path / "log", tmp_path / "run")
    assert first == second
    assert first[0].startswith("training diverged: the loss is inf at step 3, in the records ")
    assert first[1] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("sharding", [{}, FSDP2], ids=["ddp", "fsdp2"])
def test_other_methods_give_the_trajectory_of_one_process(tmp_path, method, sharding):
    two = run_together(train, tmp_path / "log", tmp_path / "two", method, 2, **sharding)
    one = train(tmp_path / "one", method, 1)
    assert_same_trajectory(two, one)
    assert_every_pair_once(two, 27, epochs=3)
    if method == "lora":
        assert_saved(tmp_path / "two", two[0])
    else:
        saved = load_file(tmp_path / "two" / "model.safetensors")
        assert all(torch.equal(saved[name], two[0]["weights"][name]) for name in saved)
        assert len(saved) > 10


@pytest.mark.parametrize("sharding", [{}, pytest.param(FSDP2, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def test_remedies_give_the_trajectory_of_one_process(tmp_path, sharding):
    flags = {"dpop_lambda": 2.0, "ema_decay": 0.8, "beta_final": 0.15, "sync_ref_model": True}
    flags |= {"ref_model_sync_steps": 8, "ref_model_mixup_alpha": 0.1}
    if sharding:  # in which an adapter's reference does not move
        flags = {name: value for name, value in flags.items() if not name.startswith(("sync", "ref_model"))}
    two = run_together(train_with, tmp_path / "log", tmp_path / "two", 2, flags, **sharding)
    one = train(tmp_path / "one", "ropo", 1, **flags)
    assert_same_trajectory(two, one)


@pytest.mark.parametrize("sharding", [{}, pytest.param(FSDP2, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["nll", pytest.param("kl", marks=pytest.mark.slow)])
def test_processes_read_different_windows_of_an_anchor_text(tmp_path, kind, sharding):
    (tmp_path / "plain.txt").write_text(" ".join(f"w{number * number % 50}" for number in range(5000)))
    flags = {"anchor_text": str(tmp_path / "plain.txt"), "anchor_loss": kind, "anchor_weight": 5.0}
    two = run_together(train_with, tmp_path / "log", tmp_path / "two", 2, flags, **sharding)
    assert all(torch.equal(two[0]["weights"][name], two[1]["weights"][name]) for name in two[0]["weights"])
    assert len([entry for entry in two[0]["logs"] if "loss" in entry]) >= 20
    free = train(tmp_path / "one", "ropo", 1)
    assert any((two[0]["weights"][name] - each).abs().max() > 1e-3 for name, each in free["weights"].items())


def test_what_wants_whole_weights_is_refused_where_they_are_cut(tmp_path):
    found = run_together(refusals, tmp_path / "log", tmp_path / "two", **FSDP2)
    for said in found:
        assert [each.partition(":")[0] for each in said] == ["ema_decay", "sync_ref_model"]
        assert all("no process has the whole weights" in each for each in said)


def refusals(folder) -> list[str]:
    """Ask for an average of weights that are cut, and for a reference that moves beside an adapter."""
    said = []
    for method, flags in (("full", {"ema_decay": 0.9}), ("ropo", {"sync_ref_model": True})):
        with pytest.raises(UserError) as caught:
            train(folder, method, 2, **flags)
        said.append(str(caught.value))
    return said


@pytest.mark.slow
def test_accumulated_batches_of_two_processes_are_those_of_one(tmp_path):
    flags = {"gradient_accumulation_steps": 2, "num_train_epochs": 6}
    two = run_together(train_with, tmp_path / "log", tmp_path / "two", 2, flags)
    one = train(tmp_path / "one", "ropo", 1, **flags)
    assert_same_trajectory(two, one)


def train_with(folder, processes: int, flags: dict) -> dict:
    return train(folder, "ropo", processes, **flags)


@pytest.mark.slow
def test_mixed_precision_leaves_the_adapter_in_float32(tmp_path):
    """FSDP2 casts what it shards to bfloat16; the trajectory is that of DDP's autocast to its rounding."""
    sharded = run_together(
        train, tmp_path / "log", tmp_path / "two", "ropo", 2, ACCELERATE_MIXED_PRECISION="bf16", **FSDP2
    )
    assert sharded[0]["kinds"][0] == {("Parameter", "torch.float32")}
    saved = load_file(tmp_path / "two" / "adapter_model.safetensors")
    assert {each.dtype for each in saved.values()} == {torch.float32}
    one = train(tmp_path / "one", "ropo", 1)
    angles = [name for name in one["weights"] if "givens" in name]
    assert angles
    for name in angles:  # bfloat16's steps near these angles are 1e-4; Adam's are 1e-2 each
        assert torch.allclose(sharded[0]["weights"][name], one["weights"][name], atol=0.05)
        assert not torch.equal(sharded[0]["weights"][name], sharded[0]["weights"][name].bfloat16().float())


def test_adapters_that_start_differently_are_the_first_process_s_before_the_base_is_sharded(tmp_path):
    (first, kept, averaged), (second, shared, _) = run_together(adapters_after_sharing, tmp_path)
    trained = [name for name in first if "lora_" in name]
    assert len(trained) == averaged > 0
    for name in trained:
        assert not torch.equal(first[name], second[name]), "the case is one of different adapters"
        assert torch.equal(kept[name], first[name])
        assert torch.equal(shared[name], first[name])
    frozen = set(first) - set(trained)
    assert frozen
    assert all(torch.equal(shared[name], second[name]) for name in frozen), "the base is FSDP's to share"
