"""The suite `strength`: what an adapter gains and what it costs, at parts of the way from its base model and beyond."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import Settings, settings_from

HELP = "an adapter at several strengths: gain on held-out pairs, KL, forgetting; the strength within a budget"

_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class StrengthSettings(Settings):
    """The settings of the suite.

    Attributes:
        data: Held-out pairs, as in `ropo.preferences.load_preferences`.
        text: Plain text for the forgetting.
        strengths: Where to measure, each within 0 .. 2, in ascending order.
        forgetting_budget: Most nats per token that the loss of the text may rise by; None chooses no strength.
        split: Split of a folder or hub dataset.
        max_pairs: Pairs to use, the first ones; None uses all.
        beta: Strength of the pull to the reference in the DPO margin; None takes that of the first adapter's training,
            and TRL's default where there is no record of it.
        max_length: Most tokens of prompt and answer together, whose end is cut as in training; None as with `beta`.
        plain_prompts: Whether text prompts stay as they are, past the chat template.
        window: Tokens of text that are read together.
        max_windows: Windows of text at most, from its beginning.
    """

    data: str
    text: Path
    strengths: tuple[float, ...] = _STRENGTHS
    forgetting_budget: float | None = Field(None, gt=0, allow_inf_nan=False)
    split: str = "test"
    max_pairs: int | None = Field(None, ge=1)
    beta: float | None = Field(None, gt=0)
    max_length: int | None = Field(None, ge=2)
    plain_prompts: bool = False
    window: int = Field(512, ge=2)
    max_windows: int = Field(64, ge=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    parser.add_argument("--data", required=True, help="held-out pairs: hub id, folder, or .jsonl, .json, .parquet file")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text: the loss that it forgets")
    parser.add_argument(
        "--strengths",
        nargs="+",
        metavar="T",
        default=[f"{strength:g}" for strength in _STRENGTHS],
        help=f"where to measure, 0 (the base model) to 2 ({' '.join(f'{strength:g}' for strength in _STRENGTHS)})",
    )
    parser.add_argument(
        "--forgetting_budget",
        type=float,
        metavar="B",
        help="name the strength that gains most while the text's loss rises by at most B nats per token",
    )
    parser.add_argument("--split", default="test", help="split of --data, where it has splits (test)")
    parser.add_argument("--max_pairs", type=int, metavar="N", help="pairs to use, the first N (all)")
    parser.add_argument("--beta", type=float, help="strength of the pull to the reference (as trained, or 0.1)")
    parser.add_argument(
        "--max_length", type=int, metavar="N", help="most tokens of prompt and answer (as trained, or 1024)"
    )
    parser.add_argument("--plain_prompts", action="store_true", help="keep text prompts past the chat template")
    parser.add_argument("--window", type=int, default=512, metavar="N", help="tokens of text read together (512)")
    parser.add_argument("--max_windows", type=int, default=64, metavar="N", help="windows of text at most (64)")


def read_settings(arguments: argparse.Namespace) -> StrengthSettings:
    """Return the suite's settings."""
    from ropo.lm.strength import check_strength

    arguments.strengths = tuple(sorted({check_strength(each) for each in arguments.strengths}))
    if not arguments.text.is_file():
        raise UserError(f"text {arguments.text}: no such file; check the path")
    return settings_from(StrengthSettings, arguments)
