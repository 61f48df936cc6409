"""How a judge is named, asked and made."""

from __future__ import annotations

__all__ = ["CHAT_KINDS", "KINDS", "JudgeOptions", "add_judge_arguments", "load_chat_judge", "load_judge"]

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ropo.core.errors import UserError
from ropo.core.settings import Settings, add_flags

if TYPE_CHECKING:
    from ropo.judging.chat import ChatJudge
    from ropo.judging.judge import Judge

KINDS = "`openai:MODEL`, `transformers:MODEL`, `reward:MODEL`, `rules` or `module:function`"
CHAT_KINDS = ("openai", "transformers")  # those that answer in words
# A cap costs nothing where the judge ends by itself, and nobody knows whether a model behind an endpoint thinks first.
ENDPOINT_TOKENS = 1024
THINKING_TOKENS = 4096  # what a local judge that thinks may write
DEFAULT_URL = "https://api.openai.com/v1"

_Count = Annotated[int, Field(ge=1)]
_Price = Annotated[float, Field(ge=0)]


class JudgeOptions(Settings):
    """Which judge there is and how it is asked."""

    judge: str = Field(description=KINDS.replace("`", ""))
    judge_logprobs: bool = Field(
        False, description="weigh verdicts by the log-probabilities of their first token, as AlpacaEval 2 does"
    )
    judge_url: str = Field(DEFAULT_URL, description="address of the OpenAI-compatible endpoint")
    judge_key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds its key")
    judge_max_tokens: _Count | None = Field(None, description="longest verdict, its thinking included")
    judge_concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="questions asked at once")
    judge_attempts: _Count = Field(6, description="attempts per question")
    judge_timeout: Annotated[float, Field(gt=0)] = Field(120.0, description="seconds to wait for an answer")
    judge_longest_wait: Annotated[float, Field(ge=0)] = Field(60.0, description="longest pause between attempts, in s")
    judge_input_price: _Price | None = Field(None, description="price of a million tokens read, to count the cost")
    judge_output_price: _Price | None = Field(None, description="price of a million tokens written")

    @property
    def kind(self) -> str:
        """What the judge is made of, as far as its name says."""
        return self.judge.partition(":")[0]


def add_judge_arguments(
    parser: argparse._ActionsContainer,
    usual_tokens: int,
    settings: type[JudgeOptions] = JudgeOptions,
    but: Collection[str] = (),
) -> None:
    """Declare the flags of `JudgeOptions`, and of whatever else the settings have.

    Args:
        parser: A parser or a group of one.
        usual_tokens: Longest verdict of a local model that does not think.
        settings: The options, perhaps with a suite's own.
        but: See `add_flags`.
    """
    longest = (
        f"{max(usual_tokens, ENDPOINT_TOKENS)} behind an endpoint, {usual_tokens} of a local model, "
        f"{THINKING_TOKENS} where its chat template lets it think"
    )
    add_flags(parser, settings, but, {"judge_max_tokens": longest})


def load_judge(options: JudgeOptions, folder: Path, batch_size: int, usual_tokens: int, flag: str = "judge") -> Judge:
    """Return the judge that options name.

    The libraries of a kind are imported with it alone: `openai` is not needed for rules.

    Args:
        options: What to load, and how to ask it.
        folder: Where its verdicts are kept.
        batch_size: Conversations that a local model answers at once.
        usual_tokens: Longest verdict that its questions need, where the options name none.
        flag: What the user named it with, for the messages.

    Raises:
        UserError: If they name none, a key is missing, or a model or function cannot be loaded.
    """
    kind, _, rest = options.judge.partition(":")
    if options.judge != "rules" and not (kind and rest):
        kinds = KINDS if flag == "judge" else f"`rules` (the default), {KINDS.replace('`rules` or ', 'or ')}"
        raise UserError(f"{flag} must be {kinds}, got {options.judge!r}; change --{flag}")
    if kind in CHAT_KINDS:
        return load_chat_judge(options, folder, batch_size, usual_tokens)
    if options.judge_logprobs:
        raise UserError(
            f"judge_logprobs: only an endpoint gives them, or a local chat model, got judge {options.judge}; drop the "
            "flag"
        )
    from ropo.judging.judge import VerdictStore
    from ropo.judging.scores import RuleJudge, function_judge, import_function, reward_judge

    if options.judge == "rules":
        return RuleJudge()
    if kind == "reward":
        return reward_judge(rest, VerdictStore(folder))
    return function_judge(options.judge, import_function(options.judge))


def load_chat_judge(options: JudgeOptions, folder: Path, batch_size: int, usual_tokens: int) -> ChatJudge:
    """Return the judge in words that options name; see `load_judge`."""
    from ropo.judging.chat import ChatJudge, ChatModel
    from ropo.judging.judge import VerdictStore

    kind, _, model = options.judge.partition(":")
    chat: ChatModel
    if kind == "openai":
        from ropo.judging.endpoint import EndpointChat

        chat = EndpointChat(model, options, options.judge_max_tokens or max(usual_tokens, ENDPOINT_TOKENS))
    else:
        from ropo.judging.local import LocalChat

        chat = LocalChat(model, options.judge_max_tokens, batch_size, usual_tokens, options.judge_logprobs)
    return ChatJudge(chat, VerdictStore(folder))
