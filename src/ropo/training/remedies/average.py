"""The exponential moving average of what is trained, which is the model in the end."""

from __future__ import annotations

__all__ = ()

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback


class Average(TrainerCallback):
    """Average the trained parameters over the steps, and put the average into the model when training is done.

        average <- d * average + (1 - d) * parameters    after every step, from the start of training

    Averaging over the last 1 / (1 - d) steps takes out what the noise of the batches moved (Polyak & Juditsky 1992, doi
    10.1137/0330046), and stays closer to the start (WARP, Rame et al. 2024, arXiv 2406.16768, section 3.1): after t
    steps the start still has the weight d^t. Rotations are averaged in their angles, vectors and log-magnitudes, and
    stay rotations.

    Cost: one copy of the trained parameters, in float32 at least, in memory and in each checkpoint.
    """

    def __init__(self, trainer: Any, decay: float) -> None:
        self.trainer, self.decay = trainer, decay
        self.values: dict[str, Tensor] = {}

    def restart(self) -> None:
        """Start at the parameters as they are."""
        self.values = {name: _wide(each.detach()).clone() for name, each in named_trained(self.trainer)}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start; a resumed run then gets its average from its checkpoint."""
        self.restart()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Take in the parameters after a step."""
        with torch.no_grad():
            for name, each in named_trained(self.trainer):
                self.values[name].mul_(self.decay).add_(_wide(each), alpha=1.0 - self.decay)

    def finish(self) -> None:
        """Put the average into the model."""
        put_values(self.trainer, self.values)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend the model its average."""
        own = {name: each.detach().clone() for name, each in named_trained(self.trainer)}
        self.finish()
        try:
            yield
        finally:
            put_values(self.trainer, own)

    def counters(self) -> dict[str, Any]:
        """Return the average."""
        return self.values

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on with it."""
        for name, each in named_trained(self.trainer):
            self.values[name] = counters[name].to(each.device)


def named_trained(trainer: Any) -> list[tuple[str, Tensor]]:
    """Return the parameters that a trainer trains, by name."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]


@torch.no_grad()
def put_values(trainer: Any, values: Mapping[str, Tensor]) -> None:
    """Give what a trainer trains other values, by name."""
    for name, each in named_trained(trainer):
        each.copy_(values[name])


@contextmanager
def as_saved(trainer: Any) -> Iterator[None]:
    """Lend the model the parameters that would be saved if training ended now."""
    average = getattr(getattr(trainer, "remedies", None), "average", None)
    if average is None or not average.values:
        yield
    else:
        with average.in_place():
            yield


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
