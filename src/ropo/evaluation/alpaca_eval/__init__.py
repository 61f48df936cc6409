"""The suite `alpaca-eval`: how often a judge prefers a model's answers to a reference's, raw and at equal lengths."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import settings_from

# Here and now, as the module's name would hide the function's otherwise.
from ropo.evaluation.alpaca_eval.win_rate import standard_error, win_rate
from ropo.judging.options import JudgeOptions, add_judge_arguments

if TYPE_CHECKING:
    from ropo.evaluation.alpaca_eval.length_control import fit_length_control

__all__ = ["fit_length_control", "standard_error", "win_rate"]

VERDICT_TOKENS = 64  # more than one letter takes, as judges like to add a label or a sentence

HELP = "win rate against reference outputs, raw and length-controlled, by a judge of your choice"


class AlpacaEvalSettings(JudgeOptions):
    """The settings of the suite.

    Attributes:
        prompts: JSON Lines with `instruction`; None takes the instructions of the reference outputs.
        reference_outputs: Outputs in AlpacaEval's JSON format; None takes those of AlpacaEval 2 from the hub.
        against_first: Whether the first model's outputs are the reference instead.
        difficulties: JSON object from instruction, or its hash, to difficulty, or AlpacaEval's CSV file, for the
            length-controlled rate; None takes those of AlpacaEval 2 from the hub where its reference is used too.
        limit: Prompts to use, the first ones; None uses all.
        swapped: Prompts that are judged in both orders.
        temperature: Of the models' answers.
        top_p: Mass of their nucleus.
        max_new_tokens: Their longest answer.
    """

    prompts: Path | None = None
    reference_outputs: Path | None = None
    against_first: bool = False
    difficulties: Path | None = None
    limit: int | None = Field(None, ge=1)
    swapped: int = Field(100, ge=0)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(2048, ge=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    flag = parser.add_argument
    flag("--prompts", type=Path, metavar="FILE", help="JSON Lines with `instruction` (those of the reference outputs)")
    flag("--reference_outputs", type=Path, metavar="FILE", help="AlpacaEval's JSON format (AlpacaEval 2's, of the hub)")
    flag("--against_first", action="store_true", help="take the first model's outputs as the reference")
    flag(
        "--difficulties",
        type=Path,
        metavar="FILE",
        help="of the instructions, on AlpacaEval 2's scale: a JSON object from instruction, or the first 12 hex digits "
        "of its SHA-256, to number; or AlpacaEval's CSV (the hub's, with the reference of the hub)",
    )
    flag("--limit", type=int, metavar="N", help="prompts to use, the first N (all)")
    flag("--swapped", type=int, default=100, metavar="N", help="prompts judged in both orders (%(default)s)")
    flag("--temperature", type=float, default=0.7, help="of the models' answers; 0 is greedy (%(default)s)")
    flag("--top_p", type=float, default=1.0, help="mass of their nucleus (%(default)s)")
    flag("--max_new_tokens", type=int, default=2048, metavar="N", help="their longest answer (%(default)s)")
    add_judge_arguments(parser, VERDICT_TOKENS)


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
    if name == "fit_length_control":
        from ropo.evaluation.alpaca_eval.length_control import fit_length_control

        return fit_length_control
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
