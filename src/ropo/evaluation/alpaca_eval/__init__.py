"""The suite `alpaca-eval`: how often a judge prefers a model's answers to a reference's, raw and at equal lengths."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import settings_from
from ropo.judging.options import JudgeOptions, add_judge_arguments

if TYPE_CHECKING:
    from ropo.evaluation.alpaca_eval.win_rates import fit_length_control, standard_error, win_rate

__all__ = ["fit_length_control", "standard_error", "win_rate"]

VERDICT_TOKENS = 64  # more than one letter takes, as judges like to add a label or a sentence

HELP = "win rate against reference outputs, raw and length-controlled, by a judge of your choice"


class AlpacaEvalSettings(JudgeOptions):
    """The settings of the suite; AlpacaEval 2's outputs and difficulties come from the hub."""

    prompts: Path | None = Field(None, description="JSON Lines with `instruction` (those of the reference outputs)")
    reference_outputs: Path | None = Field(None, description="AlpacaEval's JSON format (AlpacaEval 2's, of the hub)")
    against_first: bool = Field(False, description="take the first model's outputs as the reference")
    difficulties: Path | None = Field(
        None,
        description="of the instructions, on AlpacaEval 2's scale: a JSON object from instruction, or the first 12 hex "
        "digits of its SHA-256, to number; or AlpacaEval's CSV (the hub's, with the reference of the hub)",
    )
    limit: int | None = Field(None, ge=1, description="prompts to use, the first N (all)")
    swapped: int = Field(100, ge=0, description="prompts judged in both orders")
    temperature: float = Field(0.7, ge=0, description="of the models' answers; 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="mass of their nucleus")
    max_new_tokens: int = Field(2048, ge=1, description="their longest answer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_judge_arguments(parser, VERDICT_TOKENS, AlpacaEvalSettings)


def read_settings(arguments: argparse.Namespace) -> AlpacaEvalSettings:
    """Return the suite's settings."""
    settings = settings_from(AlpacaEvalSettings, arguments)
    if settings.against_first and settings.reference_outputs is not None:
        raise UserError("against_first and reference_outputs: name two references; drop one of the flags")
    if settings.against_first and settings.prompts is None:
        raise UserError("against_first: needs --prompts, as there are no reference outputs to take them from")
    return settings


def __getattr__(name: str) -> Any:
    """Load what needs scipy when it is asked for."""
    if name in __all__:
        return getattr(import_module("ropo.evaluation.alpaca_eval.win_rates"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
