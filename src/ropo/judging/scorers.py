"""Score answers: by rule, with a reward model, or with a function of the user's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from ropo.core.errors import UserError
from ropo.instructions import satisfied
from ropo.lm.loading import load_tokenizer
from ropo.lm.prompts import PromptRecord
from ropo.lm.sampling.journalled import model_name


@runtime_checkable
class Scorer(Protocol):
    """Give each answer to a prompt a number; higher is better."""

    @property
    def name(self) -> str:
        """What records call it."""

    def __call__(self, prompt: PromptRecord, answers: Sequence[str]) -> Sequence[float | None]:
        """Return one score an answer, in order; None where it has no verdict."""


@dataclass(frozen=True)
class RuleScorer:
    """Score an answer with the share of its prompt's verifiable instructions that it satisfies; 1 is a pass."""

    name: str = "rules"

    def __call__(self, prompt: PromptRecord, answers: Sequence[str]) -> list[float]:
        """Return the share of satisfied instructions of each answer."""
        instructions = prompt.fields.get("instructions")
        if not isinstance(instructions, list) or not instructions:
            raise UserError("the rule scorer needs a prompt's `instructions`, as `ropo.instructions` writes them")
        checks = [satisfied(instructions, answer) for answer in answers]
        return [sum(check) / len(check) for check in checks]


class RewardModelScorer:
    """Score answers with a sequence classifier that has a single output, a reward model.

    Its weights are loaded when the first answer is scored, onto the GPU if there is one.

    Args:
        source: Hub id or folder of the classifier; its tokenizer must have a chat template.

    Raises:
        UserError: If it cannot be found, or has more than one output, or no chat template.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.name = f"reward:{model_name(source)}"
        try:
            outputs = AutoConfig.from_pretrained(source).num_labels
        except (OSError, ValueError) as error:
            raise UserError(f"reward model {source}: cannot be loaded ({str(error).splitlines()[0]})") from error
        if outputs != 1:
            raise UserError(f"reward model {source}: must have 1 output, got {outputs}")
        self.tokenizer = load_tokenizer(source)
        if self.tokenizer.chat_template is None:
            raise UserError(f"reward model {source}: its tokenizer has no chat template; set `chat_template`")

    @cached_property
    def model(self) -> PreTrainedModel:
        """The classifier; `UserError` if its weights are missing or without the layer that scores."""
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(self.source, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise UserError(f"reward model {self.source}: cannot be loaded ({str(error).splitlines()[0]})") from error
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"reward model {self.source}: its checkpoint has no {missing[0]}, which would be random numbers; "
                "name a trained sequence classifier"
            )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        return cast(PreTrainedModel, model.eval().to("cuda" if torch.cuda.is_available() else "cpu"))

    @torch.inference_mode()
    def __call__(self, prompt: PromptRecord, answers: Sequence[str]) -> list[float]:
        """Return the classifier's output on each conversation."""
        conversations = [[*prompt.turns, {"role": "assistant", "content": answer}] for answer in answers]
        texts = [self.tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        return cast("list[float]", self.model(**inputs).logits[:, 0].float().tolist())


@dataclass(frozen=True)
class FunctionScorer:
    """Score answers with a function that takes the prompt's record (a dict) and the answers (a list of texts)."""

    name: str
    function: Callable[[Mapping[str, Any], list[str]], Any]

    def __call__(self, prompt: PromptRecord, answers: Sequence[str]) -> Any:
        """Return what the function returns, which `scores_of` checks."""
        return self.function(prompt.fields, list(answers))


def load_scorer(spec: str) -> Scorer:
    """Return the scorer that a command line names.

    Args:
        spec: `rules`, `reward:MODEL`, or `module:function`; the module may lie in the working directory.

    Raises:
        UserError: If it names none, or what it names cannot be loaded.
    """
    if spec == "rules":
        return RuleScorer()
    kind, colon, rest = spec.partition(":")
    if not (kind and colon and rest):
        raise UserError(
            f"scorer must be `rules`, `reward:MODEL` or `module:function` (`ropo pairs` takes `openai:MODEL` and "
            f"`transformers:MODEL` too), got {spec!r}; change --scorer"
        )
    return RewardModelScorer(rest) if kind == "reward" else FunctionScorer(spec, _import_function(kind, rest))


def scores_of(scorer: Scorer, prompt: PromptRecord, answers: Sequence[str]) -> list[float]:
    """Score the answers to one prompt and check what the scorer returns.

    Args:
        scorer: Any scorer.
        prompt: The prompt.
        answers: Texts.

    Raises:
        UserError: If the scorer raises, or returns anything but one finite number an answer.
    """
    scores = verdicts_of(scorer, prompt, answers)
    found = [score for score in scores if score is not None]
    if len(found) != len(scores):
        raise UserError(f"{_blame(scorer, prompt)} must return finite numbers, got {scores}")
    return found


def verdicts_of(scorer: Scorer, prompt: PromptRecord, answers: Sequence[str]) -> list[float | None]:
    """Score the answers to one prompt as `scores_of` does, but let the scorer have no verdict on some: None.

    Raises:
        UserError: If the scorer raises, or returns anything but one finite number or None an answer.
    """
    try:
        scores = [None if score is None else float(score) for score in scorer(prompt, answers)]
    except UserError as error:
        raise UserError(f"{_blame(scorer, prompt)} {error}") from error
    except Exception as error:  # a scorer is the user's code: whatever it raises is told in one line
        raise UserError(f"{_blame(scorer, prompt)} failed with {type(error).__name__}: {error}") from error
    if len(scores) != len(answers):
        raise UserError(f"{_blame(scorer, prompt)} must return {len(answers)} scores, one an answer, got {len(scores)}")
    if not all(score is None or math.isfinite(score) for score in scores):
        raise UserError(f"{_blame(scorer, prompt)} must return finite numbers, got {scores}")
    return scores


def _blame(scorer: Scorer, prompt: PromptRecord) -> str:
    return f"scorer {scorer.name}, prompt on line {prompt.line}:"


def _import_function(module: str, name: str) -> Callable[..., Any]:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {module}:{name}: cannot be imported ({error}); check the names") from error
    if not callable(function):
        raise UserError(f"scorer {module}:{name}: must be a function, got {type(function).__name__}")
    return function
