"""A judge in this process: a language model of transformers."""

from __future__ import annotations

__all__ = ()

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from ropo.core.errors import UserError
from ropo.judging.chat import Conversation, Failure, Reply
from ropo.judging.judge import Meter
from ropo.judging.options import THINKING_TOKENS
from ropo.judging.reading import is_thinking
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import SamplingSettings, load_sampler_model, model_name
from ropo.lm.sampling.batches import sample_batches
from ropo.lm.templating import apply_template, fold_system

_LEAST_THINKING = 512  # fewer cut it off before its verdict, in all but the shortest cases
_TOP_TOKENS = 20  # as many of the likeliest first tokens as an endpoint reports
_SWITCH = re.compile(r"enable_thinking|reasoning_effort|\bthinking\b")


class LocalChat:
    """Answer with a local model, greedily, in batches sorted by length.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes.
        max_tokens: Longest answer in tokens, thinking included; None takes `usual_tokens`, or enough to think where
            the chat template lets the model think before it answers.
        usual_tokens: Longest answer of a model that does not think.
        batch_size: Conversations answered at once.
        logprobs: Whether to report the log-probabilities of the first token, at the cost of reading each question
            twice.

    Raises:
        UserError: If there is no such model, it has no chat template, or it thinks and `max_tokens` are too few.
    """

    def __init__(
        self, source: str, max_tokens: int | None, batch_size: int, usual_tokens: int, logprobs: bool = False
    ) -> None:
        self.name = f"transformers:{model_name(source)}"
        self.source, self.batch_size, self.logprobs = source, batch_size, logprobs
        self.fingerprint = fingerprint_source(source)
        self.tokenizer = load_tokenizer(source)
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"judge {self.name}: its tokenizer has no chat template; use an instruction-tuned model, or set "
                "`chat_template` in its tokenizer_config.json"
            )
        opening = self._opening()
        self._opened = is_thinking(opening)
        self.thinks = self._opened or (
            bool(_SWITCH.search(str(self.tokenizer.chat_template))) and "/think" not in opening.lower()
        )
        self.max_tokens = max_tokens or (THINKING_TOKENS if self.thinks else usual_tokens)
        if self.thinks and self.max_tokens < _LEAST_THINKING:
            raise UserError(
                f"judge {self.name}: its chat template lets it think before its verdict, which judge_max_tokens "
                f"{self.max_tokens} cuts off; give --judge_max_tokens {THINKING_TOKENS}, or leave the flag out"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Return the content of the model, and how it is asked."""
        asked = {"model": self.fingerprint, "temperature": 0.0, "max_tokens": self.max_tokens}
        return {**asked, "logprobs": True} if self.logprobs else asked

    @cached_property
    def _model(self) -> Any:
        """The model, loaded once for all that it judges, and not at all where all is kept."""
        return load_sampler_model(self.source).eval()

    def ask(
        self, conversations: Sequence[Conversation], keep: Callable[[int, Reply], None], meter: Meter
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Yield answers batch by batch; see `ropo.judging.chat.ChatModel`.

        A conversation that does not fit the model's context fails, and so does an empty answer.

        Raises:
            UserError: If the model cannot be loaded, or its template refuses a question.
        """
        model = self._model
        encoded = [self._encode(turns) for turns in conversations]
        context = getattr(model.config, "max_position_embeddings", None) or float("inf")
        least = _LEAST_THINKING if self.thinks else self.max_tokens
        fitting = [number for number, ids in enumerate(encoded) if len(ids) + least <= context]
        for number in sorted(set(range(len(encoded))) - set(fitting)):
            yield number, _fail(meter, f"longer than the context of {context} tokens")
        if not fitting:
            return
        longest = min(self.max_tokens, int(min(context - max(len(encoded[i]) for i in fitting), self.max_tokens)))
        settings = SamplingSettings(temperature=0.0, max_new_tokens=longest)
        for batch in sample_batches(model, self.tokenizer, [encoded[i] for i in fitting], settings, self.batch_size):
            for place, (answer,) in zip(batch.prompts, batch.answers, strict=True):
                number = fitting[place]
                if not answer.text:
                    yield number, _fail(meter, "empty answer")
                    continue
                text = f"<think>{answer.text}" if self._opened else answer.text
                first_token = self._first_token(encoded[number]) if self.logprobs else None
                reply = Reply(text, len(encoded[number]), len(answer.tokens), first_token, not answer.finished)
                keep(number, reply)
                yield number, reply

    def _encode(self, turns: Conversation) -> list[int]:
        folded = fold_system(self.tokenizer, turns)
        options = {"add_generation_prompt": True, "return_dict": False}
        return cast("list[int]", apply_template(self.tokenizer, folded, f"judge {self.name}", **options))

    def _opening(self) -> str:
        """Return how the chat template begins the judge's turn, with any thinking that it opens or rules out."""
        options = {"add_generation_prompt": True, "tokenize": False}
        return str(apply_template(self.tokenizer, [{"role": "user", "content": "x"}], f"judge {self.name}", **options))

    @torch.inference_mode()
    def _first_token(self, ids: Sequence[int]) -> dict[str, float]:
        # Logits of a whole question over a vocabulary of 262k would take gigabytes.
        last = {"logits_to_keep": 1} if getattr(self._model, "_supports_logits_to_keep", bool)() else {}
        logits = self._model(input_ids=torch.tensor([ids], device=self._model.device), **last).logits[0, -1]
        found = logits.float().log_softmax(-1).topk(min(_TOP_TOKENS, logits.shape[-1]))
        likeliest: dict[str, float] = {}  # tokens of one text, such as one with a blank that decoding drops, add up
        for token, log_prob in zip(found.indices.tolist(), found.values.tolist(), strict=True):
            text = str(self.tokenizer.decode([token]))
            likeliest[text] = float(np.logaddexp(likeliest.get(text, -np.inf), log_prob))
        return likeliest


def _fail(meter: Meter, reason: str) -> Failure:
    meter.count_failure(reason)
    return Failure(reason)
