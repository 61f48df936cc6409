"""A budget of KL(policy || reference) ends training, and the weights within it are what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from ropo import RopoConfig
from ropo.core.errors import UserError
from tests.training.monitored import base, logged, make_trainer, monitored
from tests.training.remedies.helpers import same, trained

__all__ = ["base"]

TARGETS = {"target_modules": ["q_proj", "v_proj"]}
ADAPTERS = {"ropo": RopoConfig(**TARGETS), "lora": LoraConfig(**TARGETS), "full": None}


class Weights(TrainerCallback):
    """Remember the trained weights after every step, before the monitor looks at them."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.after[state.global_step] = trained(model)


def drifting(base: Any, folder: Any, method: str, budget: float | None, **changes: Any) -> Any:
    rate = 1e-3 if method == "full" else 2e-2
    trainer = make_trainer(base, folder, ADAPTERS[method], learning_rate=rate, max_steps=8, **changes)
    weights = Weights()
    trainer.add_callback(weights)
    monitor, lines = monitored(trainer, every=2, kl_budget=budget, signals=())
    return trainer, monitor, lines, weights


@pytest.mark.parametrize("method", ADAPTERS)
def test_the_weights_of_the_last_look_within_the_budget_are_kept(method: str, base: Any, tmp_path: Any) -> None:
    trainer, _, _, _ = drifting(base, tmp_path / "free", method, None)
    trainer.train()
    free = logged(trainer, "hacking/kl_per_token")
    assert len(free) == 4
    assert all(
        low <= kl <= high
        for low, kl, high in zip(
            logged(trainer, "hacking/kl_per_token_low"), free, logged(trainer, "hacking/kl_per_token_high"), strict=True
        )
    )
    budget = free[0]  # which is within it
    assert budget < free[1], "the case is one of a run that drifts on"
    trainer, monitor, lines, weights = drifting(base, tmp_path / "held", method, budget)
    trainer.train()
    assert trainer.state.global_step == 4
    assert same(trained(trainer.model), weights.after[2])
    assert not same(trained(trainer.model), weights.after[4])
    assert lines == [
        f"step 4: KL(policy || reference) is {free[1]:.3g} nats per token, above the budget of {budget:g}; training "
        f"ends with the weights of step 2 ({budget:.3g} nats per token)"
    ]
    assert monitor.budget.summary() == {
        "budget": budget,
        "kept_step": 2,
        "kept_kl_per_token": budget,
        "passed_step": 4,
        "passed_kl_per_token": free[1],
    }
    assert monitor.last["step"] == 4
    assert monitor.last["kl_per_token"] == free[1]


def test_a_budget_that_the_first_look_finds_passed_leaves_the_start(base: Any, tmp_path: Any) -> None:
    trainer, monitor, _, _ = drifting(base, tmp_path, "ropo", 1e-9)
    before = trained(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 2
    assert same(trained(trainer.model), before)
    assert monitor.budget.kept_at == (0, 0.0)


def test_a_budget_that_is_never_passed_changes_nothing(base: Any, tmp_path: Any) -> None:
    ends = []
    for budget in (None, 1e3):
        torch.manual_seed(1)
        trainer, monitor, lines, _ = drifting(base, tmp_path, "ropo", budget)
        trainer.train()
        ends.append(trained(trainer.model))
    assert same(*ends)
    assert monitor.budget.summary()["kept_step"] == 8
    assert "passed_step" not in monitor.budget.summary()
    assert not lines


@pytest.mark.parametrize("resumed_at", [3, 4])
def test_a_resumed_run_goes_back_to_the_same_weights(resumed_at: int, base: Any, tmp_path: Any) -> None:
    trainer, _, _, _ = drifting(base, tmp_path / "free", "ropo", None)
    trainer.train()
    budget = logged(trainer, "hacking/kl_per_token")[0]
    ends = []
    for checkpoint in (None, str(tmp_path / "held" / f"checkpoint-{resumed_at}")):
        trainer, monitor, _, _ = drifting(base, tmp_path / "held", "ropo", budget, save_strategy="steps", save_steps=1)
        monitor.measure_reference()
        trainer.train(checkpoint)
        assert trainer.state.global_step == 4
        assert monitor.budget.kept_at == (2, budget)
        ends.append(trained(trainer.model))
    assert same(*ends)


def test_bad_input(base: Any, tmp_path: Any) -> None:
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="stop_at_kl: must be above 0 and finite"):
            drifting(base, tmp_path, "ropo", budget)
    options = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    with pytest.raises(UserError, match="stop_at_kl: cannot be combined with load_best_model_at_end"):
        drifting(base, tmp_path, "ropo", 0.1, **options)
    trainer = make_trainer(base, tmp_path, None, precompute_ref_log_probs=True)
    trainer.ref_model = None  # as `ropo train --method full` leaves it
    with pytest.raises(UserError, match="stop_at_kl: needs the reference in training"):
        monitored(trainer, kl_budget=0.1)
