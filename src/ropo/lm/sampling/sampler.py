"""Sample from a model that is loaded once, when it is first needed, and keep every finished batch on disk."""

from __future__ import annotations

__all__ = ["model_name"]

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ropo.core.kept import Journal
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.prompts import PromptRecord, encode_prompts, prompts_digest
from ropo.lm.sampling.batches import Batch, load_sampler_model, sample_batches
from ropo.lm.sampling.settings import Answer, SamplingSettings
from ropo.lm.sampling.vllm_sampler import open_engine, sample_batches_with_vllm, sampling_backend
from ropo.lm.strength import split_strength


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


def sample_with_journal(
    sampler: Sampler,
    prompts: Sequence[PromptRecord],
    settings: SamplingSettings,
    batch_size: int,
    path: Path,
    on_batch: Callable[[Batch], None],
    identity: str | None = None,
) -> list[list[Answer]]:
    """Sample the answers to all prompts, or those that an earlier, killed run left to sample.

    Args:
        sampler: The model, which is loaded only if some batch is left to sample.
        prompts: What to answer.
        settings: How to sample.
        batch_size: Answers that are decoded at once.
        path: The journal: a finished batch is on disk before `on_batch` sees it, and never sampled again.
        on_batch: Called with each batch, those of the earlier run first.
        identity: What the journal calls the model; where None, its name and fingerprint, as folders of other models
            may have one name (`checkpoint-100`), and one folder another model after a while.

    Returns:
        The answers to each prompt, in the order of the prompts.

    Raises:
        UserError: If the journal was begun with another model or other settings, the model cannot be loaded or has no
            chat template.
    """
    encoded = encode_prompts(sampler.tokenizer, prompts)
    model = _name_and_content(sampler.source) if identity is None else {"model": identity}
    journal = Journal(path, _header(model, prompts, settings, batch_size))
    answers: dict[int, list[Answer]] = {}

    def hand_out(batch: Batch) -> None:
        answers.update(zip(batch.prompts, batch.answers, strict=True))
        on_batch(batch)

    begun = True
    try:
        finished = [_from_json(entry) for entry in journal.entries]
        begun = bool(finished)
        for batch in finished:
            hand_out(batch)
        if len(answers) < len(prompts):
            done = {batch.number for batch in finished}
            for batch in sampler.sample(encoded, settings, batch_size, done):
                journal.append(asdict(batch))
                begun = True
                hand_out(batch)
        return [answers[number] for number in range(len(prompts))]
    finally:
        journal.close()
        if not begun:  # a model that could not be loaded keeps no other from being tried
            path.unlink(missing_ok=True)


def model_name(source: str) -> str:
    """Return what records call a model: its hub id, or only the name of a local folder or file, with its strength."""
    folder, strength = split_strength(source)
    if strength is not None:
        return f"{Path(folder).resolve().name}@{strength:g}"
    return Path(source).name if Path(source).exists() else source


def _name_and_content(source: str) -> dict[str, str]:
    return {"model": model_name(source), "fingerprint": fingerprint_source(source)[:16]}


def _header(
    model: dict[str, str], prompts: Sequence[PromptRecord], settings: SamplingSettings, batch_size: int
) -> dict[str, Any]:
    header = {**model, "prompts": prompts_digest(prompts)[:16], **asdict(settings), "batch_size": batch_size}
    backend = sampling_backend()
    return header if backend == "transformers" else {**header, "backend": backend}


def _from_json(entry: dict[str, Any]) -> Batch:
    answers = [
        [Answer(each["text"], tuple(each["tokens"]), each["finished"]) for each in group] for group in entry["answers"]
    ]
    return Batch(entry["number"], entry["prompts"], answers)
