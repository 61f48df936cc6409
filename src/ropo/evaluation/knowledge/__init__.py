"""The suite `knowledge`: what a model still knows, by lm-eval's tasks, local questions and a plain text."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path

from pydantic import Field

from ropo.core.files import check_file
from ropo.core.settings import add_flags, settings_from
from ropo.evaluation.options import TextOptions

HELP = "knowledge retention: lm-eval's tasks, local questions, perplexity"

# lm-eval's names of the tasks that preference-tuning papers report; their data come from the hub.
STANDARD = (
    *("mmlu", "arc_challenge", "arc_easy", "hellaswag", "piqa", "winogrande"),
    *("truthfulqa_mc2", "gsm8k", "ifeval"),
)


class KnowledgeSettings(TextOptions):
    """The settings of the suite.

    `tasks` are names of lm-eval's tasks or groups, and local `.jsonl` files (`ropo.evaluation.knowledge.local`).
    """

    tasks: tuple[str, ...]
    text: Path | None = Field(None, description="plain text for the perplexity")
    limit: int | None = Field(None, ge=1, description="questions a task, the first N (all)")
    num_fewshot: int | None = Field(None, ge=0, description="examples in the prompt of lm-eval's tasks (theirs)")
    chat_template: bool = Field(False, description="put questions through the chat template")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    said = f"lm-eval's names, and .jsonl files ({' '.join(STANDARD)}, unless --text is given)"
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help=said)
    add_flags(parser, KnowledgeSettings, but=["tasks"])


def read_settings(arguments: argparse.Namespace) -> KnowledgeSettings:
    """Return the suite's settings."""
    if arguments.tasks is None:
        arguments.tasks = STANDARD if arguments.text is None else ()
    arguments.tasks = tuple(arguments.tasks)
    if arguments.text is not None:
        check_file("text", arguments.text)
    return settings_from(KnowledgeSettings, arguments)
