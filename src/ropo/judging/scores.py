"""Judges that give numbers without words: rules, a reward model, or a function of the user's own."""

from __future__ import annotations

__all__ = ()

import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from ropo.core.errors import UserError
from ropo.instructions import satisfied
from ropo.judging.judge import Duel, Meter, Verdict, VerdictStore
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.prompts import PromptRecord
from ropo.lm.sampling import model_name


class _ScoreJudge:
    """Score answers with a function, and prefer the one with the higher score; see `ropo.judging.judge.Judge`.

    Such a judge sees no order, so its two orders agree by construction.

    Args:
        name: What records call it.
        score: Takes a prompt and the texts of answers to it, and returns one finite number per answer.
        store: Where comparisons are kept; None keeps none, as where the scores cost less than reading them (rules), or
            nobody knows what else they depend on (a function).
        identity: What the scores depend on beside prompt and answers; for the store.
    """

    longest = None

    def __init__(
        self,
        name: str,
        score: Callable[[PromptRecord, Sequence[str]], Sequence[Any]],
        store: VerdictStore | None = None,
        identity: str = "",
    ) -> None:
        self.name, self.store, self.identity, self.meter = name, store, identity, Meter()
        self._score = score

    def check(self, prompt: PromptRecord) -> None:
        """Take any prompt."""

    def grade(self, prompt: PromptRecord, answers: Sequence[str]) -> list[Verdict]:
        """Return the score of each answer.

        Raises:
            UserError: If the function raises, or returns anything but one finite number per answer.
        """
        return [Verdict(score) for score in self._checked(prompt, answers)]

    def prefer(self, duels: Sequence[Duel], advance: Callable[[int], None]) -> list[Verdict]:
        """Return 1 where the second answer scores higher, 0 where the first does, and 0.5 for equal scores."""
        verdicts = []
        for duel in duels:
            asked = {"judge": self.identity, "turns": duel.prompt.turns, "answers": [duel.first, duel.second]}
            value = self.store.get(asked) if self.store else None
            if isinstance(value, float):
                self.meter.count_kept()
            else:
                first, second = self._checked(duel.prompt, [duel.first, duel.second])
                value = 0.5 if first == second else float(second > first)
                self.meter.count_call()
                if self.store:
                    self.store.put(asked, value)
            verdicts.append(Verdict(value))
            advance(1)
        return verdicts

    def _checked(self, prompt: PromptRecord, answers: Sequence[str]) -> list[float]:
        where = f"scorer {self.name}, prompt on line {prompt.line}:"
        try:
            scores = [None if score is None else float(score) for score in self._score(prompt, answers)]
        except UserError as error:
            raise UserError(f"{where} {error}") from error
        except Exception as error:  # it may be the user's code: whatever it raises is told in one line
            raise UserError(f"{where} failed with {type(error).__name__}: {error}") from error
        if len(scores) != len(answers):
            raise UserError(f"{where} must return {len(answers)} scores, one per answer, got {len(scores)}")
        finite = [score for score in scores if score is not None and math.isfinite(score)]
        if len(finite) != len(scores):
            raise UserError(f"{where} must return finite numbers, got {scores}")
        return finite


class RuleJudge(_ScoreJudge):
    """Score an answer with the share of its prompt's verifiable instructions that it satisfies; 1 is a pass."""

    def __init__(self) -> None:
        super().__init__("rules", _satisfied_share)

    def check(self, prompt: PromptRecord) -> None:
        """Raise `UserError` for a prompt without instructions, or with malformed ones."""
        self._checked(prompt, ["probe"])


class RewardModel:
    """Score answers with a sequence classifier that has a single output, a reward model.

    Its weights are loaded when the first answer is scored, onto the GPU if there is one.

    Args:
        source: Hub id or folder of the classifier; its tokenizer must have a chat template.

    Raises:
        UserError: If it cannot be found, or has more than one output, or no chat template.
    """

    def __init__(self, source: str) -> None:
        self.source = source
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


def reward_judge(source: str, store: VerdictStore | None = None) -> _ScoreJudge:
    """Return a reward model as a judge, whose comparisons are kept by the content of the model."""
    model = RewardModel(source)
    return _ScoreJudge(f"reward:{model_name(source)}", model, store, fingerprint_source(source) if store else "")


def function_judge(name: str, function: Callable[[Any, list[str]], Any]) -> _ScoreJudge:
    """Return a judge made of a function that takes the prompt's record (a dict) and the answers (a list of texts)."""
    return _ScoreJudge(name, lambda prompt, answers: function(prompt.fields, list(answers)))


def import_function(spec: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; the module may lie in the working directory.

    Raises:
        UserError: If it cannot be imported, or is no function.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module, _, name = spec.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {spec}: cannot be imported ({error}); check the names") from error
    if not callable(function):
        raise UserError(f"scorer {spec}: must be a function, got {type(function).__name__}")
    return cast("Callable[..., Any]", function)


def _satisfied_share(prompt: PromptRecord, answers: Sequence[str]) -> list[float]:
    instructions = prompt.fields.get("instructions")
    if not isinstance(instructions, list) or not instructions:
        raise UserError("the rule scorer needs a prompt's `instructions`, as `ropo.instructions` writes them")
    checks = [satisfied(instructions, answer) for answer in answers]
    return [sum(check) / len(check) for check in checks]
