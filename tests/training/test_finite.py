"""Losses, gradients and weights that are not finite are never trained on and never saved."""

from __future__ import annotations

import math

import pytest
import torch

from ropo.core.errors import UserError
from ropo.training.finite import BatchLoss, fault_of, is_finite, join_places
from tests.training.poisoned import pairs, trainer_of


def trained(trainer) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}


def assert_equal(one, other) -> None:
    assert one.keys() == other.keys()
    assert one
    for name in one:
        assert torch.equal(one[name], other[name]), name


def logged(trainer, *without: str) -> list[dict]:
    times = ("epoch", "step", "unique_tokens_per_second", "skipped_steps", *without)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: value for name, value in entry.items() if name not in times} for entry in entries]


@pytest.mark.parametrize("packing", [True, False])
def test_the_run_stops_and_names_step_records_and_checkpoint(tmp_path, packing):
    data = pairs(8, poisoned=(5,))
    trainer = trainer_of(tmp_path / "a", data, save_strategy="steps", save_steps=1, packing=packing)
    with pytest.raises(UserError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("training diverged: the loss is nan at step 3, in the records 4, 5 of the training data")
    assert f"the last good checkpoint is {tmp_path / 'a' / 'checkpoint-2'};" in message
    assert "lower --learning_rate, now 0.01" in message
    good = trainer_of(tmp_path / "b", data.select(range(4)), packing=packing)
    good.train()
    assert_equal(trained(trainer), trained(good))
    assert all(math.isfinite(value) for entry in trainer.state.log_history for value in entry.values())


def test_a_fault_at_the_first_step_does_not_blame_the_rate(tmp_path):
    trainer = trainer_of(tmp_path, pairs(4, poisoned=(1,)))
    before = trained(trainer)
    with pytest.raises(
        UserError, match=r"at step 1, in the records 0, 1 .*there is no checkpoint; nothing was trained"
    ):
        trainer.train()
    assert_equal(trained(trainer), before)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_skipped_step_is_as_if_it_had_not_been(tmp_path, caplog, accumulation):
    """Weights, optimizer state and metrics are those of a run without the records of that step."""
    step = 2 * accumulation  # pairs in a step
    data = pairs(4 * step, poisoned=(2 * step - 1,))  # at the end of the second step
    flags = {"gradient_accumulation_steps": accumulation}
    skipping = trainer_of(tmp_path / "a", data, skip_non_finite=True, logging_steps=2, **flags)
    skipping.train()
    assert skipping.state.global_step == 4
    rest = [index for index in range(len(data)) if index // step != 1]
    without = trainer_of(tmp_path / "b", data.select(rest), logging_steps=1, **flags)
    without.train()
    assert_equal(trained(skipping), trained(without))
    states = [trainer.optimizer.state_dict()["state"] for trainer in (skipping, without)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])
    assert all(state["step"] == 3 for state in states[0].values())
    first, last = logged(skipping, "num_tokens", "packing_ratio", "grad_norm", "learning_rate")
    one, two, three = logged(without, "num_tokens", "packing_ratio", "grad_norm", "learning_rate")
    assert first == one  # step 1, and step 2 left out
    assert last == pytest.approx({name: (two[name] + three[name]) / 2 for name in two}, abs=1e-6)
    assert skipping.state.log_history[-1]["train_loss"] == pytest.approx(without.state.log_history[-1]["train_loss"])
    assert [entry["skipped_steps"] for entry in skipping.state.log_history if "loss" in entry] == [1, 1]
    bad = ", ".join(map(str, range(2 * step - 2, 2 * step)))  # only the batch whose loss is nan is to blame
    lines = [record.message for record in caplog.records if "skipped" in record.message]
    assert lines == [f"step 2 skipped: the loss is nan, in the records {bad} of the training data (counted from 0)"]


@pytest.mark.parametrize("skip", [True, False])
def test_a_gradient_is_looked_at_where_the_loss_is_finite(tmp_path, skip):
    trainer = trainer_of(tmp_path, pairs(8), skip_non_finite=skip, max_grad_norm=0.0)
    calls, watched = [], [each for each in trainer.model.parameters() if each.requires_grad][-1]

    def spoil(gradient):
        calls.append(gradient)
        return torch.full_like(gradient, math.inf) if len(calls) == 2 else gradient

    watched.register_hook(spoil)
    if skip:
        trainer.train()
        assert len(calls) == 4
        assert trainer._finite.skipped_steps == 1
    else:
        with pytest.raises(UserError, match=r"a gradient is not finite at step 2, in the records 2, 3 of"):
            trainer.train()
        assert len(calls) == 2
    assert all(each.isfinite().all() for each in trained(trainer).values())


def test_ten_skipped_steps_in_a_row_stop_the_run(tmp_path, caplog):
    trainer = trainer_of(tmp_path, pairs(24, poisoned=tuple(range(1, 24, 2))), skip_non_finite=True)
    with pytest.raises(UserError, match="the loss is nan at step 11, in the records 20, 21 of"):
        trainer.train()
    assert sum("skipped" in record.message for record in caplog.records) == 10


def test_skipped_steps_are_counted_across_a_resume(tmp_path):
    flags = {"skip_non_finite": True, "save_strategy": "steps", "save_steps": 2, "logging_steps": 4}
    data = pairs(8, poisoned=(3,))
    whole = trainer_of(tmp_path, data, **flags)
    whole.train()
    resumed = trainer_of(tmp_path, data, **flags)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(resumed) == logged(whole)
    assert resumed._finite.skipped_steps == 1
    assert_equal(trained(resumed), trained(whole))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    trainer = trainer_of(tmp_path, pairs(2))
    trainer.save_model(str(tmp_path / "good"))
    assert (tmp_path / "good" / "adapter_model.safetensors").is_file()
    name, parameter = [each for each in trainer.model.named_parameters() if each[1].requires_grad][3]
    with torch.no_grad():
        parameter.view(-1)[5] = value
    with pytest.raises(UserError, match=f"{name} is not finite after step 0, and is not saved; there is no checkpoint"):
        trainer.save_model(str(tmp_path / "bad"))
    assert not (tmp_path / "bad").exists()


def test_the_batch_with_the_fault_is_to_blame_or_else_all():
    good, bad, other = BatchLoss(0.5, (3, 1)), BatchLoss(math.inf, (7,)), BatchLoss(math.nan, (2, 9))
    assert fault_of([good, bad, other]).records == (2, 7, 9)
    assert fault_of([good, bad]).what == "the loss is inf"
    assert fault_of([good, BatchLoss(0.1, (0,))]).records == (0, 1, 3)
    assert fault_of([good]).what == "a gradient is not finite"


def test_places_name_each_file_once():
    places = ["a.jsonl:3", "a.jsonl:12", "b.parquet: row 7", "hub [train]: row 9", "hub [train]: row 10"]
    assert join_places(places) == "a.jsonl:3, 12, b.parquet: row 7, hub [train]: row 9, 10"
    assert join_places([f"a:{n}" for n in range(40)]).endswith("30, 31, ... (40 in all)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_numbers_of_any_size_are_finite(dtype):
    large, lost = (
        torch.nn.Parameter(torch.full((64,), 1e15, dtype=dtype)),
        torch.nn.Parameter(torch.ones(3, dtype=dtype)),
    )
    assert is_finite([large, lost], "data")
    assert is_finite([large], "grad")
    lost.grad = torch.tensor([0.0, math.nan, 0.0], dtype=dtype)
    assert not is_finite([large, lost], "grad")
