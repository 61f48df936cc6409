"""The suite `instructions`: how often does a model do what a program can check that it was told?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ropo.errors import UserError
from ropo.evaluation.settings import Settings, settings_from

if TYPE_CHECKING:
    from ropo.evaluation.contestants import Contestant
    from ropo.evaluation.results import SuiteResult
    from ropo.evaluation.suites import Workplace

HELP = "share of sampled answers that follow their prompt's checkable instructions, by kind of instruction"


class InstructionSettings(Settings):
    """Hold the settings of the suite.

    Attributes:
        prompts: JSON Lines with `prompt` and `instructions`, as `ropo.instructions.generate_prompts` makes them.
        max_prompts: Prompts to use, the first ones; None uses all.
        samples: Answers a prompt.
        temperature: Divisor of the logits; 0 is greedy.
        top_p: Mass of the nucleus.
        max_new_tokens: Longest answer in tokens.
    """

    prompts: Path
    max_prompts: int | None = Field(None, ge=1)
    samples: int = Field(4, ge=1)
    temperature: float = Field(0.8, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(256, ge=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    parser.add_argument("--prompts", type=Path, required=True, help="JSON Lines with `prompt` and `instructions`")
    parser.add_argument("--max_prompts", type=int, metavar="N", help="prompts to use, the first N (all)")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="answers a prompt (4)")
    parser.add_argument("--temperature", type=float, default=0.8, help="divisor of the logits; 0 is greedy (0.8)")
    parser.add_argument("--top_p", type=float, default=0.95, help="mass of the nucleus (0.95)")
    parser.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help="longest answer in tokens (256)")


def read_settings(arguments: argparse.Namespace) -> InstructionSettings:
    """Return the suite's settings."""
    if not arguments.prompts.is_file():
        raise UserError(f"prompts {arguments.prompts}: no such file; check the path")
    return settings_from(InstructionSettings, arguments)


def evaluate(contestants: Sequence[Contestant], settings: InstructionSettings, workplace: Workplace) -> SuiteResult:
    """Sample answers from every model and check them; see `ropo.evaluation.instructions.measure`."""
    from ropo.evaluation.instructions.measure import measure

    return measure(contestants, settings, workplace)
