"""What a resumed trainer takes up again."""

from __future__ import annotations

import numpy as np
import torch
from transformers import TrainerCallback

from tests.training.poisoned import pairs, trainer_of


class Draw(TrainerCallback):
    """Draw numbers before each step; not from Python's own generator, which somebody draws from while saving."""

    def __init__(self):
        self.drawn = {}

    def on_step_begin(self, args, state, control, **kwargs):
        self.drawn[state.global_step] = (np.random.rand(), torch.rand(1).item())


def test_random_numbers_go_on_where_they_were(tmp_path):
    whole, resumed = Draw(), Draw()
    for draw, checkpoint in ((whole, None), (resumed, str(tmp_path / "checkpoint-2"))):
        trainer = trainer_of(tmp_path, pairs(8), save_strategy="steps", save_steps=2)
        trainer.add_callback(draw)
        trainer.train(resume_from_checkpoint=checkpoint)
    assert list(whole.drawn) == [0, 1, 2, 3]
    assert resumed.drawn == {step: whole.drawn[step] for step in (2, 3)}
