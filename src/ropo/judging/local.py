"""A judge in this process: a language model of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from ropo.judging.chat import Conversation, Failure, Meter, Reply
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import PromptRecord, SamplingSettings, encode_prompts, load_sampler_model, model_name
from ropo.lm.sampling.batches import sample_batches


class LocalChat:
    """Answer with a local model, greedily, in batches sorted by length.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes.
        max_tokens: Longest answer in tokens.
        batch_size: Conversations answered at once.

    Raises:
        UserError: If there is no such model.
    """

    def __init__(self, source: str, max_tokens: int, batch_size: int) -> None:
        self.name = f"transformers:{model_name(source)}"
        self.source, self.max_tokens, self.batch_size = source, max_tokens, batch_size
        self.fingerprint = fingerprint_source(source)

    @property
    def identity(self) -> dict[str, Any]:
        """Return the content of the model, and the longest answer."""
        return {"model": self.fingerprint, "temperature": 0.0, "max_tokens": self.max_tokens}

    @cached_property
    def _loaded(self) -> tuple[Any, PreTrainedTokenizerBase]:
        """The model and its tokenizer, loaded once for all that it judges, and not at all where all is kept."""
        return load_sampler_model(self.source).eval(), load_tokenizer(self.source)

    def ask(
        self, conversations: Sequence[Conversation], keep: Callable[[int, Reply], None], meter: Meter
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Yield answers batch by batch; see `ropo.judging.chat.ChatModel`.

        A conversation that does not fit the model's context fails, and so does an empty answer.

        Raises:
            UserError: If the model cannot be loaded or has no chat template.
        """
        model, tokenizer = self._loaded
        encoded = encode_prompts(tokenizer, [PromptRecord({}, list(turns), 0) for turns in conversations])
        context = getattr(model.config, "max_position_embeddings", None) or float("inf")
        fitting = [number for number, ids in enumerate(encoded) if len(ids) + self.max_tokens <= context]
        for number in sorted(set(range(len(encoded))) - set(fitting)):
            yield number, _fail(meter, f"longer than the context of {context} tokens")
        settings = SamplingSettings(temperature=0.0, max_new_tokens=self.max_tokens)
        for batch in sample_batches(model, tokenizer, [encoded[i] for i in fitting], settings, self.batch_size):
            for place, (answer,) in zip(batch.prompts, batch.answers, strict=True):
                number = fitting[place]
                if not answer.text:
                    yield number, _fail(meter, "empty answer")
                    continue
                reply = Reply(answer.text, len(encoded[number]), len(answer.tokens))
                keep(number, reply)
                yield number, reply


def _fail(meter: Meter, reason: str) -> Failure:
    meter.count_failure(reason)
    return Failure(reason)
