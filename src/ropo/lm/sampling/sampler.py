"""One model that answers are sampled from, loaded once, when it is first needed, by whatever samples here."""

from __future__ import annotations

__all__ = ()

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling.batches import Batch, load_sampler_model, sample_batches
from ropo.lm.sampling.settings import SamplingSettings
from ropo.lm.sampling.vllm_sampler import open_engine, sample_batches_with_vllm, sampling_backend


class Sampler:
    """Sample from a model until the block ends; a model whose answers are all on disk is never loaded.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes; an adapter is merged.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._resources = ExitStack()

    def __enter__(self) -> Sampler:
        """Load nothing yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the model."""
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_engine", None)
        self._resources.close()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self.source)

    @cached_property
    def _model(self) -> PreTrainedModel | PeftModel:
        return load_sampler_model(self.source)

    @cached_property
    def _engine(self) -> Any:
        return self._resources.enter_context(open_engine(self.source, self.tokenizer))

    def sample(
        self,
        encoded: Sequence[Sequence[int]],
        settings: SamplingSettings,
        batch_size: int,
        done: Collection[int] = (),
    ) -> Iterator[Batch]:
        """Sample answers batch by batch; see `ropo.lm.sampling.sample_batches`."""
        if sampling_backend() == "transformers":
            return sample_batches(self._model, self.tokenizer, encoded, settings, batch_size, done)
        return sample_batches_with_vllm(self._engine, self.tokenizer, encoded, settings, batch_size, done)
