"""Reference log-probs in advance, where the weights are cut, are those of one process, and kept for the next run."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
import torch

from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.precomputed import PrecomputedReference
from tests.tiny.trained import tiny_model, tiny_pairs, tiny_tokenizer
from tests.training.distributed.sharded import (
    FSDP2,
    METHODS,
    Sharded,
    deepspeed_environment,
    with_deepspeed,
    write_deepspeed,
)
from tests.training.together import run_together


class Counting(Sharded):
    """Count the batches that the reference is computed for in advance."""

    computed = 0

    def compute_ref_log_probs(self, *args, **kwargs):
        self.computed += 1
        return super().compute_ref_log_probs(*args, **kwargs)


def train(folder: Path, method: str, advance: bool, stage: int | None = None) -> tuple[list[float], float, int]:
    """Train and return losses, the held-out loss and the batches computed in advance."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    flags = {"use_cpu": True}
    if stage is not None:
        write_deepspeed(folder, stage)
        flags = {"use_cpu": False, "ddp_backend": "gloo"}
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
    return losses, trainer.evaluate()["eval_loss"], trainer.computed


def assert_as_live(tmp_path: Path, method: str, stage: int | None = None, **environment: str) -> None:
    """Train on log-probs that are computed, then on those that are kept, and then on live ones in one process."""
    live = train(tmp_path / "one", method, False)
    assert live[0][-1] != pytest.approx(live[0][0], abs=1e-3)
    for kept in (False, True):
        for found in run_together(train, tmp_path / "log", tmp_path / "two", method, True, stage, **environment):
            assert found[0] == pytest.approx(live[0], abs=1e-5)
            assert found[1] == pytest.approx(live[1], abs=1e-5)
            assert (found[2] == 0) == kept


@pytest.mark.parametrize("method", ["full", pytest.param("ropo", marks=pytest.mark.slow)])
def test_fsdp2_trains_on_log_probs_in_advance_as_on_live_ones(tmp_path, method):
    assert_as_live(tmp_path, method, **FSDP2)


@with_deepspeed
@pytest.mark.slow  # DeepSpeed takes twenty seconds to start
@pytest.mark.parametrize(("stage", "method"), [(3, "full"), (3, "ropo"), (2, "ropo")])
def test_deepspeed_trains_on_log_probs_in_advance_as_on_live_ones(tmp_path, stage, method):
    assert_as_live(tmp_path, method, stage, **deepspeed_environment())


def test_nothing_is_evaluated_before_they_are_there():
    with pytest.raises(UserError, match="precompute_ref_log_probs: with FSDP and DeepSpeed they are computed when"):
        PrecomputedReference(None).look_up({"ref_chosen_logps": torch.tensor([0])})
