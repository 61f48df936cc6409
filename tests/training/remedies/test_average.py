"""The average of what is trained is the model in the end, and a resumed run goes on with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import TrainerCallback

from ropo import RopoConfig
from ropo.core.errors import UserError
from ropo.training.reference import probe
from ropo.training.remedies.average import as_saved
from ropo.training.run import save_trained
from tests.tiny.trained import tiny_model, tiny_pairs
from tests.training.monitored import base, make_trainer, monitored
from tests.training.remedies.helpers import METHODS, losses, make, same, trained
from tests.training.trainers import logged

__all__ = ["base"]

ADAPTER = {"target_modules": ["q_proj", "v_proj"]}


class Weights(TrainerCallback):
    """Remember the trained weights after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.after.append(trained(model))


@pytest.mark.parametrize("method", METHODS)
def test_the_average_worked_by_hand_is_what_is_saved(method: str, tmp_path: Any) -> None:
    """0.75 * (0.75 * start + 0.25 * first) + 0.25 * second."""
    trainer = make(tmp_path, method, ema_decay=0.75, max_steps=2)
    weights, start = Weights(), trained(trainer.model)
    trainer.add_callback(weights)
    trainer.train()
    first, second = weights.after
    for name, value in trained(trainer.model).items():
        expected = 0.75 * (0.75 * start[name] + 0.25 * first[name]) + 0.25 * second[name]
        assert torch.allclose(value, expected, atol=1e-7), name
    assert not same(trained(trainer.model), second)
    save_trained(trainer, tmp_path / "saved")
    if method != "full":
        found = PeftModel.from_pretrained(tiny_model(), tmp_path / "saved")
        assert torch.allclose(probe(found), probe(trainer.model), atol=1e-5)


def test_the_steps_are_those_without_an_average(tmp_path: Any) -> None:
    weights = []
    for flags in ({}, {"ema_decay": 0.9}):
        trainer, watch = make(tmp_path, "ropo", **flags), Weights()
        trainer.add_callback(watch)
        trainer.train()
        weights.append(watch.after[-1])
    assert same(*weights)


def test_a_rotation_s_average_is_a_rotation(tmp_path: Any) -> None:
    trainer = make(tmp_path, "ropo", ema_decay=0.5)
    trainer.train()
    layer = trainer.model.base_model.model.model.layers[0].self_attn.q_proj
    merged = layer.get_base_layer().weight.double()
    layer.merge()
    after = layer.get_base_layer().weight.double()
    unit = [rows / rows.norm(dim=1, keepdim=True) for rows in (merged, after)]
    assert torch.allclose(unit[0] @ unit[0].T, unit[1] @ unit[1].T, atol=1e-5)  # angles between neurons
    assert not torch.allclose(unit[0], unit[1], atol=1e-3)  # it turned


def test_packed_equals_padded(tmp_path: Any) -> None:
    ends = []
    for packing in (True, False):
        trainer = make(tmp_path, "ropo", ema_decay=0.8, packing=packing)
        trainer.train()
        ends.append(trained(trainer.model))
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-4), name


@pytest.mark.parametrize("method", ["ropo", "lora", "full"])
@pytest.mark.parametrize("resumed_at", [1, 3, 4])
def test_a_resumed_run_ends_bit_for_bit_the_same(method: str, resumed_at: int, tmp_path: Any) -> None:
    flags: dict[str, Any] = {"ema_decay": 0.7, "save_strategy": "steps", "save_steps": 1}
    whole, resumed = make(tmp_path, method, **flags), make(tmp_path, method, **flags)
    expected = losses(whole)
    resumed.train(str(tmp_path / f"checkpoint-{resumed_at}"))
    assert logged(resumed, "loss") == expected
    assert same(trained(whole.model), trained(resumed.model))


def test_all_that_remembers_goes_on_together(tmp_path: Any) -> None:
    flags: dict[str, Any] = {"ema_decay": 0.7, "save_strategy": "steps", "save_steps": 1, "dpop_lambda": 5.0}
    flags |= {"sync_ref_model": True, "ref_model_sync_steps": 2, "beta_final": 0.3, "max_steps": 6}
    whole, resumed = make(tmp_path, "ropo", **flags), make(tmp_path, "ropo", **flags)
    expected = losses(whole)
    resumed.train(str(tmp_path / "checkpoint-3"))
    assert logged(resumed, "loss") == expected
    assert same(trained(whole.model), trained(resumed.model))


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Any) -> None:
    make(tmp_path, save_strategy="steps", save_steps=1).train()
    with pytest.raises(UserError, match="holds no state of average; give the options that it was written with"):
        make(tmp_path, ema_decay=0.9).train(str(tmp_path / "checkpoint-2"))


def test_the_monitor_and_the_budget_look_at_what_would_be_saved(base: Any, tmp_path: Any) -> None:
    flags = {"learning_rate": 2e-2, "max_steps": 8}
    own, averaged = [], []
    for found, more in ((own, {}), (averaged, {"ema_decay": 0.95})):
        trainer = make_trainer(base, tmp_path, RopoConfig(**ADAPTER), **flags, **more)
        monitored(trainer, every=2, signals=())
        trainer.train()
        found += logged(trainer, "hacking/kl_per_token")
    assert all(one < other for one, other in zip(averaged, own, strict=True))  # the average is nearer to the start
    trainer = make_trainer(base, tmp_path, RopoConfig(**ADAPTER), **flags, ema_decay=0.95)
    monitor, _ = monitored(trainer, every=2, signals=(), kl_budget=averaged[1])
    trainer.train()
    assert trainer.state.global_step == 6
    assert monitor.budget.kept_at == (4, averaged[1])
    assert same({name: each.cpu() for name, each in monitor.budget.kept.items()}, trained(trainer.model))
    monitor.last_step = -1
    assert monitor.measure()["kl_per_token"].value == pytest.approx(averaged[1], rel=1e-6)


def test_the_average_is_lent_and_given_back(tmp_path: Any) -> None:
    trainer = make(tmp_path, "ropo", ema_decay=0.9)
    own: list[bool] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            before, scores = trained(model), probe(model)
            with as_saved(trainer):
                assert not same(trained(model), before)
                assert not torch.equal(probe(model), scores)
            own.append(same(trained(model), before) and torch.equal(probe(model), scores))

    trainer.add_callback(Look())
    trainer.train()
    assert own == [True] * 4


def test_evaluation_after_training_is_of_the_average(tmp_path: Any) -> None:
    held_out = tiny_pairs(4, seed=5)
    trainer = make(tmp_path, "ropo", held_out=held_out, ema_decay=0.9)
    trainer.train()
    plain = make(tmp_path, "ropo", held_out=held_out)
    plain.train()
    assert abs(trainer.evaluate()["eval_rewards/margins"]) < abs(plain.evaluate()["eval_rewards/margins"])


def test_bad_input(tmp_path: Any) -> None:
    for value in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(UserError, match=r"ema_decay: must be (above 0 and below 1|a finite number)"):
            make(tmp_path, ema_decay=value)
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    with pytest.raises(UserError, match="ema_decay: cannot be combined with load_best_model_at_end"):
        make(tmp_path, held_out=tiny_pairs(4), ema_decay=0.9, **best)
