"""The suite `preference`: does a model prefer the chosen answers of held-out pairs, and is it only their length?"""

from __future__ import annotations

__all__ = ()

import argparse

from pydantic import Field

from ropo.core.settings import Settings, settings_from

HELP = "held-out pairs: accuracy, margin, and accuracy by which answer is longer"


class PreferenceSettings(Settings):
    """The settings of the suite.

    Attributes:
        data: Held-out pairs, as in `ropo.preferences.load_preferences`.
        split: Split of a folder or hub dataset.
        max_pairs: Pairs to use, the first ones; None uses all.
        reference: Model that implicit rewards are measured from; None takes the base model of the first model if that
            is an adapter, and the first model otherwise.
        beta: Strength of the pull to the reference in the DPO margin; None takes that of the first model's training,
            and TRL's default where there is no record of it.
        max_length: Most tokens of prompt and answer together, whose end is cut as in training; None as with `beta`.
        plain_prompts: Whether text prompts stay as they are, past the chat template.
    """

    data: str
    split: str = "test"
    max_pairs: int | None = Field(None, ge=1)
    reference: str | None = None
    beta: float | None = Field(None, gt=0)
    max_length: int | None = Field(None, ge=2)
    plain_prompts: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    parser.add_argument("--data", required=True, help="held-out pairs: hub id, folder, or .jsonl, .json, .parquet file")
    parser.add_argument("--split", default="test", help="split of --data, where it has splits (test)")
    parser.add_argument("--max_pairs", type=int, metavar="N", help="pairs to use, the first N (all)")
    parser.add_argument("--reference", metavar="M", help="what rewards are measured from (first model, or its base)")
    parser.add_argument("--beta", type=float, help="strength of the pull to the reference (as trained, or 0.1)")
    parser.add_argument(
        "--max_length", type=int, metavar="N", help="most tokens of prompt and answer (as trained, or 1024)"
    )
    parser.add_argument("--plain_prompts", action="store_true", help="keep text prompts past the chat template")


def read_settings(arguments: argparse.Namespace) -> PreferenceSettings:
    """Return the suite's settings."""
    return settings_from(PreferenceSettings, arguments)
