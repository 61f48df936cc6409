"""The suite `knowledge`: what a model still knows, by lm-eval's tasks, local questions and a plain text."""

from __future__ import annotations

__all__ = ()

import argparse
from pathlib import Path

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import Settings, settings_from

HELP = "knowledge retention: lm-eval's tasks, local questions, perplexity"

# lm-eval's names of the tasks that preference-tuning papers report; their data come from the hub.
STANDARD = (
    *("mmlu", "arc_challenge", "arc_easy", "hellaswag", "piqa", "winogrande"),
    *("truthfulqa_mc2", "gsm8k", "ifeval"),
)


class KnowledgeSettings(Settings):
    """The settings of the suite.

    Attributes:
        tasks: Names of lm-eval's tasks or groups, and local `.jsonl` files of questions
            (see `ropo.evaluation.knowledge.local`).
        text: Plain text for the perplexity; None measures none.
        limit: Questions a task, the first ones; None uses all.
        num_fewshot: Examples in the prompt of lm-eval's own tasks; None takes each task's default; none for files.
        chat_template: Whether questions go through the chat template.
        window: Tokens of text that are read together.
        max_windows: Windows of text at most, from its beginning.
    """

    tasks: tuple[str, ...]
    text: Path | None = None
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    chat_template: bool = False
    window: int = Field(512, ge=2)
    max_windows: int = Field(64, ge=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the suite's own flags."""
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help=f"lm-eval's names, and .jsonl files ({' '.join(STANDARD)}, unless --text is given)",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="plain text for the perplexity")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a task, the first N (all)")
    parser.add_argument(
        "--num_fewshot", type=int, metavar="N", help="examples in the prompt of lm-eval's tasks (theirs)"
    )
    parser.add_argument("--chat_template", action="store_true", help="put questions through the chat template")
    parser.add_argument("--window", type=int, default=512, metavar="N", help="tokens of text read together (512)")
    parser.add_argument("--max_windows", type=int, default=64, metavar="N", help="windows of text at most (64)")


def read_settings(arguments: argparse.Namespace) -> KnowledgeSettings:
    """Return the suite's settings."""
    if arguments.tasks is None:
        arguments.tasks = STANDARD if arguments.text is None else ()
    arguments.tasks = tuple(arguments.tasks)
    if arguments.text is not None and not arguments.text.is_file():
        raise UserError(f"text {arguments.text}: no such file; check the path")
    return settings_from(KnowledgeSettings, arguments)
