"""The suite `strength`: what an adapter gains and what it costs, at parts of the way from its base model and beyond."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path

from pydantic import Field

from ropo.core.files import check_file
from ropo.core.settings import add_flags, settings_from
from ropo.evaluation.options import HeldOutOptions, TextOptions

HELP = "an adapter at several strengths: gain on held-out pairs, KL, forgetting; the strength within a budget"

_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class StrengthSettings(HeldOutOptions, TextOptions):
    """The settings of the suite; `strengths` are within 0 .. 2, in ascending order."""

    text: Path = Field(description="plain text: the loss that it forgets")
    strengths: tuple[float, ...] = _STRENGTHS
    forgetting_budget: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="name the strength that gains most while the text's loss rises by at most N nats per token",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_flags(parser, StrengthSettings, but=["strengths"])
    default = [f"{strength:g}" for strength in _STRENGTHS]
    said = f"where to measure, 0 (the base model) to 2 ({' '.join(default)})"
    parser.add_argument("--strengths", nargs="+", metavar="T", default=default, help=said)


def read_settings(arguments: argparse.Namespace) -> StrengthSettings:
    """Return the suite's settings."""
    from ropo.lm.strength import check_strength

    arguments.strengths = tuple(sorted({check_strength(each) for each in arguments.strengths}))
    check_file("text", arguments.text)
    return settings_from(StrengthSettings, arguments)
