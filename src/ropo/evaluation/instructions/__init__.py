"""The suite `instructions`: how often does a model do what a program can check that it was told?"""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path

from pydantic import Field

from ropo.core.files import check_file
from ropo.core.settings import add_flags, settings_from
from ropo.evaluation.options import SampledOptions

HELP = "share of sampled answers that follow their prompt's checkable instructions, by kind of instruction"


class InstructionSettings(SampledOptions):
    """The settings of the suite, with the sampling of `ropo pairs`."""

    prompts: Path = Field(description="JSON Lines with `prompt` and `instructions`")
    temperature: float = Field(0.8, ge=0, description="divisor of the logits")
    top_p: float = Field(0.95, gt=0, le=1, description="mass of the nucleus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_flags(parser, InstructionSettings)


def read_settings(arguments: argparse.Namespace) -> InstructionSettings:
    """Return the suite's settings."""
    check_file("prompts", arguments.prompts)
    return settings_from(InstructionSettings, arguments)
