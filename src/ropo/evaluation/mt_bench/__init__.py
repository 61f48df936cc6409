"""The suite `mt-bench`: two-turn questions, graded from 1 to 10 by a judge, or compared with the first model's."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path
from typing import Literal

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import settings_from
from ropo.judging.options import CHAT_KINDS, JudgeOptions, add_judge_arguments

# The package ships no questions. Flag, and the file in FastChat's repository, at a fixed commit, that it stands for.
PAGE = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/587d5cfa1609a43d192cedb8441cac3c17db105d/fastchat/llm_judge/data"
)
FILES = {
    "questions": "mt_bench/question.jsonl",
    "reference_answers": "mt_bench/reference_answer/gpt-4.jsonl",
    "judge_prompts": "judge_prompts.jsonl",
}

VERDICT_TOKENS = 2048  # as FastChat asks for

HELP = "two-turn questions graded by a chat model, or compared with the first model's answers"


class MtBenchSettings(JudgeOptions):
    """The settings of the suite; files that are not named are FastChat's, whose answers are to its questions only."""

    questions: Path | None = Field(None, description=f"JSON Lines (FastChat's {FILES['questions']})")
    reference_answers: Path | None = Field(None, description=f"JSON Lines (FastChat's {FILES['reference_answers']})")
    judge_prompts: Path | None = Field(None, description=f"JSON Lines (FastChat's {FILES['judge_prompts']})")
    mode: Literal["single", "pairwise", "both"] = Field(
        "single", description="single, pairwise (against the first model) or both"
    )
    limit: int | None = Field(None, ge=1, description="questions to use, spread over the categories (all)")
    max_new_tokens: int = Field(1024, ge=1, description="longest answer of a turn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    add_judge_arguments(parser, VERDICT_TOKENS, MtBenchSettings)
    parser.epilog = f"FastChat's files are fetched once where none are named, from {PAGE}"


def read_settings(arguments: argparse.Namespace) -> MtBenchSettings:
    """Return the suite's settings."""
    settings = settings_from(MtBenchSettings, arguments)
    if settings.kind not in CHAT_KINDS or not settings.judge.partition(":")[2]:
        raise UserError(
            f"judge must be `openai:MODEL` or `transformers:MODEL` in this suite, which asks for grades in words, got "
            f"{settings.judge!r}; change --judge"
        )
    if settings.judge_logprobs:
        raise UserError("judge_logprobs: this suite's verdicts are not single tokens; drop the flag")
    return settings
