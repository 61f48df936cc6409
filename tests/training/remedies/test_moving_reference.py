"""A reference that follows the policy: TRL's arithmetic, for an adapter in the room of an adapter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from ropo.core.errors import UserError
from ropo.training.reference import copied_tensors, keeps_reference, probe, reference_of
from ropo.training.remedies.moving_reference import mix
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.trained import tiny_model
from tests.training.monitored import base, make_trainer, monitored
from tests.training.remedies.helpers import METHODS, losses, make, same, trained
from tests.training.trainers import logged

__all__ = ["base"]

ADAPTERS = [name for name in METHODS if name != "full"]


class Watch(TrainerCallback):
    """Remember policy and reference after every step."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append([(one.detach().clone(), other.detach().clone()) for one, other in floating(model)])


def floating(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what is mixed; OFT has indices too."""
    return [each for each in copied_tensors(model) if each[0].is_floating_point()]


def moving(folder: Any, method: str = "ropo", alpha: float = 0.6, every: int = 2, **changes: Any) -> Any:
    flags = {"ref_model_mixup_alpha": alpha, "ref_model_sync_steps": every, "max_steps": 6, **changes}
    return make(folder, method, sync_ref_model=True, **flags)


def test_the_mix_worked_by_hand() -> None:
    """0.25 * 8 + 0.75 * 4 = 5."""
    reference = torch.tensor([4.0])
    mix(torch.tensor([8.0]), reference, 0.25)
    assert reference.tolist() == [5.0]


@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_s_reference_follows_it(method: str, tmp_path: Any) -> None:
    trainer = moving(tmp_path, method)
    watch = Watch()
    trainer.add_callback(watch)
    start = [other.detach().clone() for _, other in floating(trainer.model)]
    found = losses(trainer)
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    expected = start
    assert len(watch.steps) == 6
    for step, tensors in enumerate(watch.steps, start=1):
        if step % 2 == 0:
            expected = [0.4 * before + 0.6 * policy for before, (policy, _) in zip(expected, tensors, strict=True)]
        for wanted, (_, reference) in zip(expected, tensors, strict=True):
            assert torch.allclose(reference, wanted, atol=1e-7)
    assert any(not torch.equal(before, after) for before, after in zip(start, expected, strict=True))
    assert not any(each.requires_grad for name, each in trainer.model.named_parameters() if "ref" in name.split("."))


def test_with_a_weight_of_1_the_next_loss_starts_at_ln_2_again(tmp_path: Any) -> None:
    for method in ADAPTERS:
        trainer = moving(tmp_path, method, alpha=1.0, every=2, per_device_train_batch_size=24)
        found = losses(trainer)
        assert [found[step] for step in (0, 2, 4)] == pytest.approx([math.log(2)] * 3, abs=1e-5), method
        assert all(abs(found[step] - math.log(2)) > 1e-4 for step in (1, 3, 5)), method


def test_packed_equals_padded(tmp_path: Any) -> None:
    found = losses(moving(tmp_path, every=1))
    assert found == pytest.approx(losses(moving(tmp_path, every=1, packing=False)), rel=1e-4)
    still = losses(make(tmp_path, "ropo", max_steps=6))
    assert max(abs(a - b) for a, b in zip(found, still, strict=True)) > 1e-3


def test_a_fully_trained_model_s_reference_moves_as_trl_moves_it(tmp_path: Any) -> None:
    ours = moving(tmp_path, "full")
    settings = {name: getattr(ours.args, name) for name in ("max_steps", "learning_rate", "logging_steps", "use_cpu")}
    settings |= {"per_device_train_batch_size": 4, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    settings |= {"bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}
    settings |= {"sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 2}
    torch.manual_seed(0)
    theirs = DPOTrainer(
        tiny_model(),
        ref_model=tiny_model(),
        args=DPOConfig(output_dir=str(tmp_path), **settings),
        train_dataset=make(tmp_path).train_dataset.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=ours.processing_class,
    )
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    assert losses(make(tmp_path, "full", max_steps=6)) != pytest.approx(logged(theirs, "loss"), rel=1e-4)


@pytest.mark.parametrize("method", ["ropo", "lora", "hra", "full"])
@pytest.mark.parametrize("resumed_at", [2, 3])
def test_a_resumed_run_goes_on_with_its_reference(method: str, resumed_at: int, tmp_path: Any) -> None:
    flags = {"save_strategy": "steps", "save_steps": 1}
    whole, resumed = moving(tmp_path, method, **flags), moving(tmp_path, method, **flags)
    expected = losses(whole)
    resumed.train(str(tmp_path / f"checkpoint-{resumed_at}"))
    assert logged(resumed, "loss") == expected
    assert same(trained(whole.model), trained(resumed.model))
    one, other = (each.remedies.moving_reference.counters()["reference"] for each in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_saved_has_no_reference_in_it(tmp_path: Any) -> None:
    from ropo.training.run import save_trained

    trainer = moving(tmp_path / "run")
    trainer.train()
    expected = probe(trainer.model)
    save_trained(trainer, tmp_path / "saved")
    assert not (tmp_path / "saved" / "ref").exists()
    found = PeftModel.from_pretrained(tiny_model(), tmp_path / "saved")
    assert torch.allclose(probe(found), expected, atol=1e-5)


def test_the_reference_of_an_adapter_trained_further_starts_at_it(tmp_path: Any) -> None:
    first = make(tmp_path / "first", "ropo")
    first.train()
    first.save_model(str(tmp_path / "adapter"))
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter", is_trainable=True)
    before = probe(model)
    flags = {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 1}
    trainer = make(tmp_path / "second", "ropo", model=model, **flags)
    assert losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)
    with reference_of(trainer) as start:
        assert torch.allclose(probe(start), before, atol=1e-5)
    assert not torch.allclose(probe(trainer.model), before, atol=1e-3)
    policy, reference = copied_tensors(trainer.model)[0]
    assert torch.equal(policy, reference)  # put back as it was


def test_the_monitor_measures_from_the_start(base: Any, tmp_path: Any) -> None:
    """With the reference copied at every step, the divergence from it would be exactly 0."""
    from ropo import RopoConfig

    adapter = RopoConfig(target_modules=["q_proj", "v_proj"])
    flags = {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 1}
    trainer = make_trainer(base, tmp_path, adapter, learning_rate=2e-2, **flags)
    monitored(trainer, every=2)
    trainer.train()
    assert logged(trainer, "hacking/kl_per_token")[-1] > 0.01


def test_a_fully_trained_model_keeps_no_start(base: Any, tmp_path: Any) -> None:
    trainer = make_trainer(base, tmp_path, None, sync_ref_model=True)
    assert not keeps_reference(trainer)
    with pytest.raises(UserError, match="stop_at_kl: needs the reference in training"):
        monitored(trainer, kl_budget=0.1)


def test_a_method_without_a_second_adapter_is_refused(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(METHODS, "adalora", lambda: AdaLoraConfig(init_r=4, total_step=10, target_modules=["q_proj"]))
    with pytest.raises(UserError, match="sync_ref_model: PEFT keeps no second ADALORA adapter"):
        moving(tmp_path, "adalora")
    assert issubclass(PreferenceTrainer, DPOTrainer)
