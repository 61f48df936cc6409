"""Reference log-probs in advance, where the weights are cut, are those of one process, and kept for the next run."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
import torch

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.late_reference import LateReference
from tests.training.distributed.test_resume import Sharded, deepspeed_environment, with_deepspeed, write_deepspeed
from tests.training.distributed.test_trajectories import FSDP2, METHODS
from tests.training.packing_helpers import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.together import run_together


class Counting(Sharded):
    """Count the batches that the reference is computed for in advance."""

    computed = 0

    def compute_ref_log_probs(self, *args, **kwargs):
        self.computed += 1
        return super().compute_ref_log_probs(*args, **kwargs)


def train(folder: Path, method: str, advance: bool, stage: int | None = None) -> tuple[list[float], float, list[int]]:
    """Train, twice where log-probs come in advance, and return losses, the held-out loss and the batches computed."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    flags = {"use_cpu": True}
    if stage is not None:
        write_deepspeed(folder, stage)
        flags = {"use_cpu": False, "ddp_backend": "gloo"}
    counts = []
    for _ in range(2 if advance else 1):
        torch.manual_seed(0)
        trainer = Counting(
            tiny_model(),
            ref_model=tiny_model() if method == "full" and not advance else None,
            args=PreferenceConfig(
                str(folder),
                per_device_train_batch_size=4 // int(os.environ.get("WORLD_SIZE", "1")),
                learning_rate=1e-3,
                max_steps=4,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                precompute_ref_log_probs=advance,
                **flags,
            ),
            train_dataset=tiny_pairs(11),  # of which two processes have six and five
            eval_dataset=tiny_pairs(16, seed=9),  # one batch for each: transformers repeats pairs to fill the last
            processing_class=tiny_tokenizer(),
            peft_config=METHODS[method](),
        )
        assert trainer.ref_model is None or not advance
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        held_out = trainer.evaluate()["eval_loss"]
        counts.append(trainer.computed)
        del trainer
    return losses, held_out, counts


def assert_as_live(found: list, live: tuple) -> None:
    for losses, held_out, computed in found:
        assert losses == pytest.approx(live[0], abs=1e-5)
        assert held_out == pytest.approx(live[1], abs=1e-5)
        assert computed[0] > 0
        assert computed[1] == 0  # from the cache
    assert live[0][-1] != pytest.approx(live[0][0], abs=1e-3)


@pytest.mark.parametrize("method", ["full", pytest.param("ropo", marks=pytest.mark.slow)])
def test_fsdp2_trains_on_log_probs_in_advance_as_on_live_ones(tmp_path, method):
    found = run_together(train, tmp_path / "log", tmp_path / "two", method, True, **FSDP2)
    assert_as_live(found, train(tmp_path / "one", method, False))


@with_deepspeed
@pytest.mark.slow  # DeepSpeed takes twenty seconds to start
@pytest.mark.parametrize(("stage", "method"), [(3, "full"), (3, "ropo"), (2, "ropo")])
def test_deepspeed_trains_on_log_probs_in_advance_as_on_live_ones(tmp_path, stage, method):
    environment = deepspeed_environment()
    found = run_together(train, tmp_path / "log", tmp_path / "two", method, True, stage, **environment)
    assert_as_live(found, train(tmp_path / "one", method, False))


def test_nothing_is_evaluated_before_they_are_there():
    with pytest.raises(UserError, match="precompute_ref_log_probs: with FSDP and DeepSpeed they are computed when"):
        LateReference(None).look_up({"ref_chosen_logps": torch.tensor([0])})
