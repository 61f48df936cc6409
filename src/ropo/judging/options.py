"""How a judge is named and asked: each option declared once, as a field that is also a flag."""

from __future__ import annotations

__all__ = ["CHAT_KINDS", "KINDS", "JudgeOptions", "add_judge_arguments"]

import argparse
from typing import Annotated, Any, get_args

from pydantic import Field

from ropo.core.settings import Settings

KINDS = "`openai:MODEL`, `transformers:MODEL`, `reward:MODEL`, `rules` or `module:function`"
CHAT_KINDS = ("openai", "transformers")  # those that answer in words
# A cap costs nothing where the judge ends by itself, and nobody knows whether a model behind an endpoint thinks first.
ENDPOINT_TOKENS = 1024
THINKING_TOKENS = 4096  # what a local judge that thinks may write
DEFAULT_URL = "https://api.openai.com/v1"

_Count = Annotated[int, Field(ge=1)]
_Price = Annotated[float, Field(ge=0)]


class JudgeOptions(Settings):
    """Which judge there is and how it is asked; the descriptions are the help of the flags of the same names.

    `jsonargparse` or `pydantic-settings` would declare flags from fields too. The dozen lines of `add_judge_arguments`
    do it without a dependency, and keep `--help` free of anything but what a user needs.
    """

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


def add_judge_arguments(parser: argparse._ActionsContainer, usual_tokens: int, *, chat_only: bool = False) -> None:
    """Declare the flags of `JudgeOptions`.

    Args:
        parser: A parser or a group of one.
        usual_tokens: Longest verdict of a local model that does not think.
        chat_only: Whether to leave out the flags that say which judge there is, as `ropo pairs` has one for that.
    """
    longest = (
        f"{max(usual_tokens, ENDPOINT_TOKENS)} behind an endpoint, {usual_tokens} of a local model, "
        f"{THINKING_TOKENS} where its chat template lets it think"
    )
    for name, field in JudgeOptions.model_fields.items():
        if chat_only and name in ("judge", "judge_logprobs"):
            continue
        if field.annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", help=field.description)
            continue
        said = longest if name == "judge_max_tokens" else "" if field.default is None else "%(default)s"
        shown: dict[str, Any] = {"required": True} if field.is_required() else {"default": field.default}
        parser.add_argument(
            f"--{name}",
            type=_type_of(field.annotation),
            metavar="N" if _type_of(field.annotation) is not str else name.rpartition("_")[2].upper(),
            help=f"{field.description} ({said})" if said and not field.is_required() else field.description,
            **shown,
        )


def _type_of(annotation: Any) -> type:
    """Return the plain type in an annotation such as `Annotated[int, ...] | None`."""
    while not isinstance(annotation, type):
        annotation = get_args(annotation)[0]
    return annotation
