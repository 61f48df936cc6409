"""The suite `instructions`: how often does a model do what a program can check that it was told?"""

from __future__ import annotations

__all__ = ()

import argparse

from ropo.core.settings import settings_from
from ropo.evaluation.sampled import SampledSettings, add_suite_sampling_arguments, check_prompts_file

HELP = "share of sampled answers that follow their prompt's checkable instructions, by kind of instruction"


class InstructionSettings(SampledSettings):
    """The settings of the suite; prompts need `instructions`, as `ropo.instructions.generate_prompts` writes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags, with the sampling of `ropo pairs`."""
    add_suite_sampling_arguments(parser, "`prompt` and `instructions`", temperature=0.8, top_p=0.95)


def read_settings(arguments: argparse.Namespace) -> InstructionSettings:
    """Return the suite's settings."""
    check_prompts_file(arguments)
    return settings_from(InstructionSettings, arguments)
