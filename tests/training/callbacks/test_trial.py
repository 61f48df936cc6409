"""The step that is tried before training: it changes settings where memory asks for it, and nothing else."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from ropo.core.errors import UserError
from ropo.training.callbacks.trial import GpuMemory, TrialStep
from ropo.training.memory import ROOM
from ropo.training.meta_device import LiveBytes
from tests.tiny.trained import tiny_pairs
from tests.training.trainers import LORA, logged, ours


class Counted(GpuMemory):
    """A device of so many bytes, whose tensors lie on the CPU and are really counted."""

    def __init__(self, trainer, size: float) -> None:
        self.trainer, self.size, self.peaks = trainer, size, []

    def free(self) -> int:
        return int(self.size)

    def peak(self, action) -> int:
        live = LiveBytes(self.trainer.model)
        with live:
            action()
        self.peaks.append(sum(live.at_peak([]).values()))
        if self.peaks[-1] > self.size:
            raise torch.OutOfMemoryError
        return self.peaks[-1]


def tried(folder, size: float, **changes):
    """Make a trainer and its trial on a device of that size."""
    trainer = ours(folder, max_steps=2, **changes)
    lines = []
    trial = TrialStep(trainer, Counted(trainer, size), lines.append)
    trainer.add_callback(trial)
    return trainer, trial, lines


def whole_peak(folder, **changes) -> int:
    trainer, trial, _ = tried(folder, 1e12, **changes)
    trainer.train()
    return trial.found["peak_bytes"]


def moments(trainer) -> int:
    return 8 * sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)


def test_where_all_fits_training_is_the_same_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setitem(LORA, "lora_dropout", 0.3)  # draws random numbers in every pass
    assert LoraConfig(**LORA).lora_dropout == 0.3
    plain = ours(tmp_path / "plain", max_steps=2)
    plain.train()
    trainer, trial, lines = tried(tmp_path / "tried", 1e9)
    trainer.train()
    assert logged(trainer, "loss") == logged(plain, "loss")
    assert logged(trainer, "num_tokens") == logged(plain, "num_tokens")
    assert trial.found["tokens_per_step"] is None
    assert not trial.found["gradient_checkpointing"]
    assert len(trial.meter.peaks) == 1
    (line,) = lines
    assert line.endswith("of 1.0 GB that are free")


def test_what_does_not_fit_is_computed_again_and_in_smaller_packs(tmp_path):
    plain = ours(tmp_path / "plain", max_steps=2)
    plain.train()
    with_checkpoints = whole_peak(tmp_path / "peak", gradient_checkpointing=True)
    trainer, trial, (*lines,) = tried(tmp_path / "tried", (0.7 * with_checkpoints + moments(plain)) / ROOM)
    trainer.train()
    found = trial.found
    assert found["gradient_checkpointing"]
    assert trainer.args.gradient_checkpointing
    assert trainer.model.base_model.model.is_gradient_checkpointing
    assert found["tokens_per_step"] == trainer.data_collator.budget is not None
    assert found["peak_bytes"] <= ROOM * trial.meter.size - moments(trainer)
    assert trial.meter.peaks == sorted(trial.meter.peaks, reverse=True)
    assert len(trial.meter.peaks) >= 3
    assert f"--gradient_checkpointing --tokens_per_step {found['tokens_per_step']}" in trial_line(lines, trial)
    assert logged(trainer, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-5)


def trial_line(lines, trial) -> str:
    if not lines:  # said while training
        trial.say = lines.append
        trial._tell(trial.found["peak_bytes"], trial.meter.free(), trial.found["tokens"])
    return lines[-1]


@pytest.mark.parametrize("share", [0.7, 2.0])
def test_a_budget_that_is_needlessly_small_is_widened(tmp_path, share):
    whole = whole_peak(tmp_path / "peak", gradient_checkpointing=True)
    small = {"gradient_checkpointing": True, "tokens_per_step": 60}
    free = (share * whole + moments(ours(tmp_path / "any"))) / ROOM
    trainer, trial, _ = tried(tmp_path / "tried", free, **small)
    trainer.train()
    budget = trial.found["tokens_per_step"]
    assert (budget is None) == (share > 1)
    if budget is not None:
        assert budget > 60
        again, second, _ = tried(tmp_path / "again", 1e12, gradient_checkpointing=True, tokens_per_step=budget)
        second._set_budget = lambda budget: None
        again.train()
        assert second.found["peak_bytes"] <= 1.05 * (ROOM * free - moments(trainer))  # what does not grow with tokens


@pytest.mark.parametrize("one_prompt", [False, True])
def test_a_pair_that_is_too_large_is_said_before_the_first_step(tmp_path, one_prompt):
    """Pairs of one prompt cannot be computed apart, so that their pack is longer than the longest pair."""
    pairs = tiny_pairs(24)
    if one_prompt:
        pairs = pairs.map(lambda pair: {"prompt": pairs[0]["prompt"]})
    trainer, trial, lines = tried(tmp_path / "tried", 1e4, data=pairs)
    with pytest.raises(UserError, match=r"gradients of \d+ tokens, .* take more than the 0.0 GB that are free; lower"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not lines
    assert all(each.grad is None for each in trainer.model.parameters())
    assert len(trial.meter.peaks) >= 3
