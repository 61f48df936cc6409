"""The judge that a command line names."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ropo.core.errors import UserError
from ropo.evaluation.settings import Settings

if TYPE_CHECKING:
    from ropo.judging.chat import ChatModel
    from ropo.judging.scorers import Scorer

KINDS = "`openai:MODEL`, `transformers:MODEL`, `reward:MODEL`, `rules` or `module:function`"
# A cap costs nothing where the judge ends by itself, and nobody knows whether a model behind an endpoint thinks first.
ENDPOINT_TOKENS = 1024
DEFAULT_URL = "https://api.openai.com/v1"


class JudgeSettings(Settings):
    """Hold how a suite's answers are judged; the fields are the flags of the same names."""

    judge: str
    judge_url: str = DEFAULT_URL
    judge_key_variable: str = "OPENAI_API_KEY"
    judge_max_tokens: Annotated[int, Field(ge=1)] | None = None
    judge_logprobs: bool = False
    judge_concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    judge_attempts: Annotated[int, Field(ge=1)] = 6
    judge_timeout: Annotated[float, Field(gt=0)] = 120.0
    judge_longest_wait: Annotated[float, Field(ge=0)] = 60.0
    judge_input_price: Annotated[float, Field(ge=0)] | None = None
    judge_output_price: Annotated[float, Field(ge=0)] | None = None


def add_judge_arguments(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Declare the flags of a suite's judge, with the suite's usual longest verdict."""
    parser.add_argument("--judge", required=True, metavar="JUDGE", help=KINDS.replace("`", ""))
    parser.add_argument(
        "--judge_logprobs",
        action="store_true",
        help="weigh verdicts by the log-probabilities of their first token, as AlpacaEval 2 does",
    )
    add_chat_arguments(parser, max_tokens)


def add_chat_arguments(parser: argparse._ActionsContainer, max_tokens: int) -> None:
    """Declare how a judge that answers in words is asked."""
    flag = parser.add_argument
    flag(
        "--judge_url",
        default=DEFAULT_URL,
        metavar="URL",
        help="address of the OpenAI-compatible endpoint (%(default)s)",
    )
    flag(
        "--judge_key_variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds its key (%(default)s)",
    )
    flag(
        "--judge_max_tokens",
        type=int,
        metavar="N",
        help=f"longest verdict and thinking ({max(max_tokens, ENDPOINT_TOKENS)} behind an endpoint; {max_tokens} of "
        "a local model, 4096 where its chat template lets it think)",
    )
    flag("--judge_concurrency", type=int, default=8, metavar="N", help="questions asked at once (%(default)s)")
    flag("--judge_attempts", type=int, default=6, metavar="N", help="attempts a question (%(default)s)")
    flag("--judge_timeout", type=float, default=120.0, metavar="S", help="seconds to wait for an answer (%(default)s)")
    flag(
        "--judge_longest_wait",
        type=float,
        default=60.0,
        metavar="S",
        help="longest pause between attempts (%(default)s)",
    )
    flag("--judge_input_price", type=float, metavar="PRICE", help="price of a million tokens read, to count the cost")
    flag("--judge_output_price", type=float, metavar="PRICE", help="price of a million tokens written")


def load_judge(settings: JudgeSettings, batch_size: int, max_tokens: int) -> ChatModel | Scorer:
    """Return the chat model or the scorer that settings name.

    Args:
        settings: What to load.
        batch_size: Conversations that a local model answers at once.
        max_tokens: Longest verdict that the question needs, where the settings name none.

    Raises:
        UserError: If they name none, a key is missing, or a model or function cannot be loaded.
    """
    kind, _, rest = settings.judge.partition(":")
    if settings.judge_logprobs and kind not in ("openai", "transformers"):
        raise UserError(
            f"judge_logprobs: only an endpoint gives them, or a local chat model, got judge {settings.judge}; drop the "
            "flag"
        )
    if kind == "openai" and rest:
        from ropo.judging.endpoint import EndpointChat, EndpointSettings

        return EndpointChat(
            EndpointSettings(
                model=rest,
                url=settings.judge_url,
                key_variable=settings.judge_key_variable,
                max_tokens=settings.judge_max_tokens or max(max_tokens, ENDPOINT_TOKENS),
                logprobs=settings.judge_logprobs,
                concurrency=settings.judge_concurrency,
                attempts=settings.judge_attempts,
                timeout=settings.judge_timeout,
                longest_wait=settings.judge_longest_wait,
            )
        )
    if kind == "transformers" and rest:
        from ropo.judging.local import LocalChat

        return LocalChat(rest, settings.judge_max_tokens, batch_size, max_tokens, settings.judge_logprobs)
    if settings.judge != "rules" and not (kind and rest):
        raise UserError(f"judge must be {KINDS}, got {settings.judge!r}; change --judge")
    from ropo.judging.scorers import load_scorer

    return load_scorer(settings.judge)


def asked_of(judge: ChatModel | Scorer) -> dict[str, Any]:
    """Return the name of a judge, and the longest verdict where it writes one, as results record them."""
    identity = getattr(judge, "identity", {})
    return {"judge": judge.name, "judge_max_tokens": identity.get("max_tokens")}
