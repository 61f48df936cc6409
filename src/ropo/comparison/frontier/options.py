"""What a recipe asks to be measured along every run."""

from __future__ import annotations

__all__ = ["lost_checkpoints"]

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ropo.core.names import did_you_mean
from ropo.core.settings import Settings


class Frontier(Settings):
    """What is measured along every run: the fields of `ropo.evaluation.path.PathSettings`, and these.

    Attributes:
        split: Whose pairs the gain is measured on.
        against: Label of the method that the others are compared with at an equal gain; None for the first.
        keep_checkpoints: Whether the checkpoints stay when a run is measured; those of full fine-tuning are large.
    """

    checkpoints: int = Field(8, ge=1)
    sampled: int | None = Field(None, ge=1)
    split: Literal["test", "validation"] = "test"
    pairs: int = Field(64, ge=1)
    prompts: int = Field(48, ge=1)
    samples: int = Field(1, ge=1)
    max_new_tokens: int = Field(96, ge=1)
    text: str
    window: int = Field(256, ge=2)
    windows: int = Field(8, ge=1)
    bf16: bool = False
    against: str | None = None
    keep_checkpoints: bool = True

    @model_validator(mode="after")
    def _check_sampled(self) -> Frontier:
        if self.sampled is not None and self.sampled > self.checkpoints:
            raise ValueError(f"sampled: must be at most checkpoints ({self.checkpoints}), got {self.sampled}; lower it")
        return self

    def check_runs(self, labels: Sequence[str], data: Sequence[Any]) -> None:
        """Refuse a method or pairs that a recipe does not have.

        Raises:
            ValueError: Saying what there is.
        """
        if self.against is not None and self.against not in labels:
            hint = did_you_mean(self.against, labels) or f"; choose from {', '.join(labels)}"
            raise ValueError(f"against: there is no method {self.against!r}{hint}")
        for each in data:
            if self.split == "validation" and not each.validated:
                raise ValueError(f"split: {each.name} has no validation pairs; add validation_share: 0.1, or name test")

    def saving(self, steps: int) -> dict[str, Any]:
        """Return the options of `ropo train` that keep the checkpoints of a run of so many optimizer steps."""
        every = -(-steps // self.checkpoints)
        return {"save_strategy": "steps", "save_steps": every, "save_only_model": True}


def lost_checkpoints(options: dict[str, Any]) -> str | None:
    """Say which option would keep a run from having the checkpoints of a frontier; None for none."""
    if options.get("save_strategy", "steps") != "steps":
        return "save_strategy: a frontier is measured at checkpoints, every so many steps; remove it"
    dropping = (name for name in ("save_total_limit", "load_best_model_at_end") if options.get(name))
    return next(
        (f"{name}: would drop checkpoints that the frontier is measured at; remove it" for name in dropping), None
    )
