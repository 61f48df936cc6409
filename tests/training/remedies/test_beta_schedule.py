"""A beta that changes from step to step, the same in a resumed run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ropo.core.errors import UserError
from ropo.training.remedies.beta_schedule import beta_at
from tests.training.remedies.helpers import losses, make, same, trained
from tests.training.trainers import logged

STEPS = [0.1, 0.2, 0.3, 0.4]


def test_beta_moves_in_equal_parts() -> None:
    assert [beta_at(step, 4, 0.1, 0.4) for step in range(4)] == pytest.approx(STEPS)
    assert beta_at(0, 1, 0.1, 0.4) == 0.1


def test_each_step_has_its_beta(tmp_path: Any) -> None:
    """The first step has the first beta in any case; so the second one sees the same pair from the same weights."""
    flags = {"per_device_train_batch_size": 1, "learning_rate": 0.1}
    trainer, plain = make(tmp_path, "ropo", beta_final=0.4, **flags), make(tmp_path, "ropo", **flags)
    found = losses(trainer)
    plain.train()
    assert logged(trainer, "beta") == pytest.approx(STEPS)
    margin = logged(plain, "rewards/margins")[1]
    assert abs(margin) > 1e-2
    assert found[1] == pytest.approx(math.log1p(math.exp(-2 * margin)), rel=1e-4)
    assert logged(trainer, "rewards/margins")[1] == pytest.approx(2 * margin, rel=1e-4)
    assert trainer.beta == 0.1  # held-out margins are told in the first beta


def test_packed_equals_padded(tmp_path: Any) -> None:
    packed, padded = (losses(make(tmp_path, "ropo", beta_final=0.01, packing=packing)) for packing in (True, False))
    assert packed == pytest.approx(padded, rel=1e-4)


def test_a_resumed_run_goes_on_with_it(tmp_path: Any) -> None:
    flags = {"beta_final": 0.4, "save_strategy": "steps", "save_steps": 1}
    whole, resumed = make(tmp_path, "ropo", **flags), make(tmp_path, "ropo", **flags)
    expected = losses(whole)
    resumed.train(str(tmp_path / "checkpoint-2"))
    assert logged(resumed, "loss") == expected
    assert logged(resumed, "beta") == logged(whole, "beta")
    assert same(trained(whole.model), trained(resumed.model))


@pytest.mark.parametrize("value", [0.0, -0.1, float("inf")])
def test_bad_input(value: float, tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"beta_final: must be (above 0 and finite|a finite number)"):
        make(tmp_path, beta_final=value)
