"""Losses that TRL does not have: worked by hand, compared with TRL's experimental ones, packed and padded."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.remedies.losses import (
    dpo_argument,
    length_term,
    own_loss,
    positive_penalty,
    simpo_loss,
    smoothed_loss,
    split_losses,
)
from ropo.training.remedies.options import RemedyOptions
from ropo.training.remedies.scores import PairScores, drift
from tests.tiny.trained import tiny_pairs
from tests.training.remedies.helpers import METHODS, losses, make, moved
from tests.training.trainers import logged

# Two pairs: the chosen answer of the first gained 1 nat and the rejected one lost 2; both answers of the second fell,
# the chosen one by 3 nats and the rejected one by 5.
SCORES = PairScores(
    policy=torch.tensor([[-9.0, -12.0], [-23.0, -15.0]]),
    reference=torch.tensor([[-10.0, -10.0], [-20.0, -10.0]]),
    lengths=torch.tensor([[4, 8], [10, 5]]),
)
BETA = 0.5


def minus_log_sigmoid(z: float) -> float:
    return math.log1p(math.exp(-z))


def test_dpo_positive_worked_by_hand() -> None:
    """z1 = 0.5 (1 - -2) = 1.5, and no penalty; z2 = 0.5 (-3 - -5) - 0.5 * 4 * 3 = 1 - 6 = -5."""
    assert positive_penalty(SCORES.ratios).tolist() == [0.0, 3.0]
    assert dpo_argument(SCORES, BETA, 4.0, None).tolist() == [1.5, -5.0]
    expected = (minus_log_sigmoid(1.5) + minus_log_sigmoid(-5.0)) / 2
    config = PreferenceConfig(dpop_lambda=4.0, output_dir="unused")
    assert float(own_loss([("sigmoid", 1.0)], SCORES, BETA, config)) == pytest.approx(expected, rel=1e-6)


def test_the_penalty_pulls_the_chosen_answer_up_only_where_it_fell() -> None:
    policy = SCORES.policy.clone().requires_grad_()
    scores = PairScores(policy, SCORES.reference, SCORES.lengths)
    dpo_argument(scores, BETA, 4.0, None).sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == [[0.5, -0.5], [0.5 + 0.5 * 4, -0.5]]


def test_r_dpo_worked_by_hand() -> None:
    """z1 = 1.5 + 0.1 (4 - 8) = 1.1, as the shorter chosen answer pushes more; z2 = 1 + 0.1 (10 - 5) = 1.5."""
    assert length_term(SCORES.lengths, 0.1).tolist() == pytest.approx([-0.4, 0.5])
    assert dpo_argument(SCORES, BETA, None, 0.1).tolist() == pytest.approx([1.1, 1.5])
    expected = (minus_log_sigmoid(1.1) + minus_log_sigmoid(1.5)) / 2
    config = PreferenceConfig(rdpo_alpha=0.1, output_dir="unused")
    assert float(own_loss([("sigmoid", 1.0)], SCORES, BETA, config)) == pytest.approx(expected, rel=1e-6)


def test_r_dpo_s_optimum_is_the_one_of_a_reward_less_the_length() -> None:
    """Where pi is exp((r - alpha |y|) / beta) times the reference, the argument is r_w - r_l again."""
    rewards, alpha = torch.tensor([[2.0, 0.5], [1.0, -1.0]]), 0.1
    policy = SCORES.reference + (rewards - alpha * SCORES.lengths) / BETA
    found = dpo_argument(PairScores(policy, SCORES.reference, SCORES.lengths), BETA, None, alpha)
    assert found.tolist() == pytest.approx([1.5, 2.0], rel=1e-5)


def test_conservative_dpo_worked_by_hand() -> None:
    """With eps = 0.1 and z = 1.5: 0.9 * log(1 + e^-1.5) + 0.1 * log(1 + e^1.5); least where sigmoid(z) = 0.9."""
    expected = 0.9 * minus_log_sigmoid(1.5) + 0.1 * minus_log_sigmoid(-1.5)
    assert float(smoothed_loss(torch.tensor([1.5]), 0.1)) == pytest.approx(expected, rel=1e-6)
    best = torch.tensor([math.log(9.0)], requires_grad=True)
    smoothed_loss(best, 0.1).sum().backward()
    assert best.grad is not None
    assert abs(float(best.grad)) < 1e-6
    config = PreferenceConfig(loss_type=["cdpo"], label_smoothing=0.1, output_dir="unused")
    found = float(own_loss([("cdpo", 2.0)], SCORES, BETA, config))
    second = 0.9 * minus_log_sigmoid(1.0) + 0.1 * minus_log_sigmoid(-1.0)
    assert found == pytest.approx(2.0 * (expected + second) / 2, rel=1e-6)


def test_simpo_worked_by_hand_and_as_trl_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of a token: -9/4, -12/8 and -23/10, -15/5; z = 2 (-2.25 + 1.5) - 0.5 = -2 and 2 (-2.3 + 3) - 0.5 = 0.9."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer

    found = simpo_loss(SCORES, 2.0, 0.5, 0.0)
    assert found.tolist() == pytest.approx([minus_log_sigmoid(-2.0), minus_log_sigmoid(0.9)], rel=1e-5)
    means = SCORES.policy / SCORES.lengths
    for smoothing in (0.0, 0.1):
        theirs = SimpleNamespace(
            alpha=0.0,
            beta=2.0,
            simpo_gamma=0.5,
            loss_type="simpo",
            label_smoothing=smoothing,
            accelerator=SimpleNamespace(device="cpu"),
        )
        expected, *_ = CPOTrainer.cpo_loss(theirs, means[:, 0], means[:, 1])
        assert simpo_loss(SCORES, 2.0, 0.5, smoothing).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_drift_is_what_the_answers_of_the_data_lost() -> None:
    assert drift(SCORES).tolist() == [[-1.0 + 3.0, 14.0], [2.0 + 5.0, 13.0]]


REMEDIES: dict[str, dict[str, Any]] = {
    "dpop": {"dpop_lambda": 5.0},
    "rdpo": {"rdpo_alpha": 0.05},
    "both": {"dpop_lambda": 5.0, "rdpo_alpha": 0.05, "rpo_alpha": 0.5},
    "dpop with ld": {"dpop_lambda": 5.0, "ld_alpha": 0.5},
    "cdpo": {"loss_type": ["cdpo"], "label_smoothing": 0.1},
    "simpo": {"loss_type": ["simpo"], "beta": 2.0},
    "simpo and sft": {"loss_type": ["simpo", "sft"], "loss_weights": [1.0, 0.3], "beta": 2.0},
    "rpo": {"rpo_alpha": 0.7},
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_packed_equals_padded(remedy: str, tmp_path: Any) -> None:
    flags = REMEDIES[remedy]
    packed = make(tmp_path, **flags)
    assert next(iter(packed.get_train_dataloader()))["packs"]
    padded = make(tmp_path, packing=False, **flags)
    found, expected = losses(packed), losses(padded)
    assert found == pytest.approx(expected, rel=1e-4)  # sums in another order
    plain = losses(make(tmp_path, beta=flags.get("beta", 0.1), ld_alpha=flags.get("ld_alpha")))
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 1e-3, "the remedy does something"
    for name in ("drift/per_token", "drift/chosen_per_token", "drift/rejected_per_token"):
        assert logged(packed, name) == pytest.approx(logged(padded, name), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_every_loss(method: str, tmp_path: Any) -> None:
    found = losses(make(tmp_path, method, per_device_train_batch_size=24, **REMEDIES["both"]))  # all pairs each step
    assert len(found) == 4
    assert found[-1] < found[0]


def test_a_loss_computed_here_is_trl_s_where_no_remedy_changes_it(tmp_path: Any) -> None:
    """A penalty of next to nothing: the sigmoid computed here is the one that TRL computes."""
    ours, theirs = losses(make(tmp_path, dpop_lambda=1e-12)), losses(make(tmp_path))
    assert ours == pytest.approx(theirs, abs=1e-6)
    ours = losses(make(tmp_path, dpop_lambda=1e-12, ld_alpha=0.3))
    assert ours == pytest.approx(losses(make(tmp_path, ld_alpha=0.3)), abs=1e-6)
    assert ours != pytest.approx(theirs, abs=1e-4)
    ours = losses(make(tmp_path, rpo_alpha=0.7))
    assert ours == losses(make(tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7]))


@pytest.mark.parametrize("remedy", ["both", "simpo"])
def test_reference_log_probs_may_be_computed_in_advance(remedy: str, tmp_path: Any, monkeypatch: Any) -> None:
    """From a policy that is not the reference: where they are equal, DPO-Positive's penalty has a kink, and rounding in
    batches of other pairs decides on which side of it the first step is.
    """
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = losses(moved(make(tmp_path, precompute_ref_log_probs=True, **REMEDIES[remedy])))
    assert found == pytest.approx(losses(moved(make(tmp_path, **REMEDIES[remedy]))), rel=1e-4)


def test_accumulation_and_evaluation_see_the_same_loss(tmp_path: Any) -> None:
    flags = REMEDIES["both"]
    whole = losses(make(tmp_path, max_steps=2, per_device_train_batch_size=8, **{**flags, "rpo_alpha": None}))
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "rpo_alpha": None}
    assert losses(make(tmp_path, **{**flags, **parts, "max_steps": 2})) == pytest.approx(whole, rel=1e-4)
    trainer = make(tmp_path, held_out=tiny_pairs(4, seed=5), **flags)
    trainer.train()
    measured = trainer.evaluate()
    plain = make(tmp_path, held_out=tiny_pairs(4, seed=5), packing=False, **flags)
    plain.train()
    assert measured["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-3)
    assert "eval_drift/per_token" in measured


def test_the_drift_is_the_mean_over_tokens(tmp_path: Any) -> None:
    """TRL logs summed log-probs under the policy; the reference's are those of the first step, where both are one."""
    trainer = make(tmp_path, max_steps=2, per_device_train_batch_size=24, learning_rate=3e-2)
    trainer.train()
    (first, second) = logged(trainer, "logps/chosen")
    lengths = [len(row["chosen_ids"]) for row in trainer.train_dataset]
    expected = (first - second) / (sum(lengths) / len(lengths))
    assert logged(trainer, "drift/chosen_per_token")[0] == pytest.approx(0.0, abs=1e-6)
    assert logged(trainer, "drift/chosen_per_token")[1] == pytest.approx(expected, rel=1e-3)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dpop_lambda": 0.0}, "dpop_lambda: must be above 0, got 0"),
        ({"dpop_lambda": math.nan}, "dpop_lambda: must be a finite number, got nan"),
        ({"rdpo_alpha": -0.1}, "rdpo_alpha: must be above 0, got -0.1"),
        ({"rpo_alpha": 0.0}, "rpo_alpha: must be above 0"),
        ({"rpo_alpha": 1.0, "loss_type": ["sigmoid", "sft"]}, "rpo_alpha: is the loss sft, which is given too"),
        ({"dpop_lambda": 5.0, "loss_type": ["ipo"]}, "dpop_lambda: changes the losses sigmoid and cdpo only"),
        ({"rdpo_alpha": 0.1, "loss_type": ["simpo"]}, "rdpo_alpha: changes the losses sigmoid and cdpo only"),
        ({"dpop_lambda": 5.0, "use_weighting": True}, "dpop_lambda: cannot be combined with use_weighting"),
        ({"rdpo_alpha": 0.1, "f_divergence_type": "forward_kl"}, "cannot be combined with another f_divergence_type"),
        ({"loss_type": ["simpo"], "ld_alpha": 0.5}, "loss_type simpo: cannot be combined with ld_alpha"),
        ({"loss_type": ["simpo"], "simpo_gamma": -1.0}, "simpo_gamma: must not be negative, got -1"),
        ({"loss_type": ["cdpo"]}, "loss_type cdpo: needs label_smoothing"),
        ({"loss_type": ["simp"]}, "loss_type: there is no 'simp'; did you mean 'simpo'"),
    ],
)
def test_what_breaks_a_rule_is_refused_in_one_line(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        PreferenceConfig(output_dir="unused", **flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_remedy_every_loss_is_trl_s() -> None:
    config = PreferenceConfig(output_dir="unused", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])
    assert split_losses(config) == ([("sigmoid", 1.0), ("sft", 0.5)], [])
    assert RemedyOptions() == RemedyOptions(None, None, None, 0.5)
