"""The suite `preference`: does a model prefer the chosen answers of held-out pairs, and is it only their length?"""

from __future__ import annotations

__all__ = ()

import argparse

from pydantic import Field

from ropo.core.settings import add_flags, settings_from
from ropo.evaluation.options import HeldOutOptions

HELP = "held-out pairs: accuracy, margin, and accuracy by which answer is longer"


class PreferenceSettings(HeldOutOptions):
    """The settings of the suite."""

    reference: str | None = Field(None, description="what rewards are measured from (first model, or its base)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_flags(parser, PreferenceSettings)


def read_settings(arguments: argparse.Namespace) -> PreferenceSettings:
    """Return the suite's settings."""
    return settings_from(PreferenceSettings, arguments)
