"""The typed result of a run measured along its way: numbers for each pair, prompt and window, so that runs pair up."""

from __future__ import annotations

__all__ = ["PathPoint", "PathResult", "SampledAnswers", "read_path"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from ropo.core.record import Measure, Source, read_typed
from ropo.diagnostics.answers import AnswerMeasure
from ropo.diagnostics.behaviour import dpo_margins
from ropo.evaluation.results import FILE_NAME, WrittenResult


class SampledAnswers(Measure):
    """What the answers of a checkpoint did.

    Attributes:
        measure: Length, repetition and variety.
        passed: Of each prompt the share of its answers that follow all its instructions; None where prompts have none.
        kl: Of each prompt the estimate of KL(policy || reference) in nats, summed over an answer's tokens, mean over
            its answers (`ropo.diagnostics.behaviour.kl_of_answers`); zeros for the reference itself.
    """

    measure: AnswerMeasure
    passed: list[float] | None
    kl: list[float]


class PathPoint(Measure):
    """The numbers of one checkpoint.

    Attributes:
        step: Optimizer steps done.
        chosen: Of each pair log pi(chosen) - log pi_ref(chosen), in nats, summed over the answer's tokens.
        rejected: The same of the rejected answer.
        text: Of each window the loss on plain text in nats per token; empty where there is no text.
        answers: What its sampled answers did; None where none were sampled.
    """

    step: int
    chosen: list[float]
    rejected: list[float]
    text: list[float]
    answers: SampledAnswers | None = None

    def margins(self, beta: float) -> Float[np.ndarray, " pairs"]:
        """Return the DPO margin of each pair, in nats."""
        gains = torch.tensor([self.chosen, self.rejected], dtype=torch.float64).T
        return dpo_margins(gains, torch.zeros_like(gains), beta).numpy()


class PathResult(WrittenResult):
    """The path of one run.

    Attributes:
        run: Name of its folder.
        settings: What was measured, with every setting.
        data: Pairs, prompts and text by their use, with fingerprints.
        model: The reference, with its fingerprint.
        beta: What a DPO margin is multiplied by, as in the run's training.
        text_tokens: Predicted tokens of each window.
        reference: The reference's own numbers, at step 0.
        points: The checkpoints in the order of their steps.
        notes: What a reader of the numbers has to know.
        seed: Seed of the sampled answers.
    """

    run: str
    settings: dict[str, Any]
    data: dict[str, Source]
    model: Source
    beta: float
    text_tokens: list[int]
    reference: PathPoint
    points: list[PathPoint] = Field(min_length=1)
    notes: list[str] = Field(default_factory=list)
    seed: int


def read_path(folder: Path) -> PathResult:
    """Read the path of a run.

    Raises:
        UserError: If the folder has no `results.json`, or it is no path of this schema.
    """
    mends = ("name the output folder of `ropo path`", "measure again")
    return read_typed(PathResult, folder / FILE_NAME, "a path of schema 1", *mends)
