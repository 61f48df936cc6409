"""The models that a suite compares: their names, loading one at a time, and its sampled answers, kept on disk."""

from __future__ import annotations

__all__ = ["Contestant", "answer_prompts", "parse_contestants"]

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.core.kept import content_key
from ropo.evaluation.results import ModelResult
from ropo.evaluation.suites import Workplace
from ropo.evaluation.unit_values import UnitValues, compare_models
from ropo.lm.fingerprint import fingerprint_source
from ropo.lm.loading import load_tokenizer
from ropo.lm.sampling import (
    Answer,
    Batch,
    PromptRecord,
    Sampler,
    SamplingSettings,
    prompts_digest,
    sample_with_journal,
    sampling_backend,
)
from ropo.lm.sampling.batches import load_sampler_model
from ropo.lm.sampling.sampler import model_name
from ropo.lm.strength import split_strength


@dataclass(frozen=True)
class Contestant:
    """Name one model: `source` is whatever `ropo.lm.loading.load_policy` takes."""

    name: str
    source: str


def model_results(
    contestants: Sequence[Contestant],
    fingerprints: Sequence[str],
    of_models: Sequence[Mapping[str, UnitValues]],
    units: str,
    seed: int,
) -> list[ModelResult]:
    """Return each model's metrics under its name, with the changes of all but the first; see `compare_models`."""
    compared = compare_models([each.name for each in contestants], of_models, units, seed)
    return [
        ModelResult(name=each.name, source=model_name(each.source), fingerprint=mark, metrics=metrics, changes=changes)
        for each, mark, (metrics, changes) in zip(contestants, fingerprints, compared, strict=True)
    ]


def parse_contestants(specs: Sequence[str]) -> list[Contestant]:
    """Read the models of a command line.

    Args:
        specs: `SOURCE` or `NAME=SOURCE` each; without a name it is the last part of a path, with the strength that an
            adapter is named at (`DIR@0.5`), or the hub id.

    Returns:
        The models in the same order.

    Raises:
        UserError: If none is given, a name or source is empty, or two models have one name.
    """
    if not specs:
        raise UserError("MODEL_OR_ADAPTER: needs at least one model, got none; name a hub id, a folder or a .gguf file")
    contestants = [_parse(spec) for spec in specs]
    seen: dict[str, str] = {}
    for each in contestants:
        if each.name in seen:
            raise UserError(
                f"models {seen[each.name]} and {each.source}: have one name, {each.name!r}; "
                f"give one of them another, as in {each.name}-2={each.source}"
            )
        seen[each.name] = each.source
    return contestants


def _parse(spec: str) -> Contestant:
    name, equals, source = spec.partition("=")
    is_place = Path(split_strength(spec)[0]).exists()  # whose name may have an = in it
    if not equals or is_place:
        name, source = model_name(str(Path(spec).resolve()) if Path(spec).exists() else spec), spec
    if not name.strip() or not source.strip():
        raise UserError(f"model {spec!r}: must be SOURCE or NAME=SOURCE; mend it")
    return Contestant(name, source)


def file_name(model: str, kind: str) -> str:
    """Return a file name of a kind, such as `json`, for a model's name, another one for every name."""
    return f"{quote(model, safe='')}.{kind}"


@contextmanager
def loaded(contestant: Contestant, merged: bool = True) -> Iterator[tuple[Any, PreTrainedTokenizerBase]]:
    """Load a model and its tokenizer, on the GPU if there is one, and drop the model afterwards.

    Args:
        contestant: The model.
        merged: Whether an adapter is merged, which makes sampling cheaper and rounds the weights once.
    """
    tokenizer = load_tokenizer(contestant.source)
    model: Any = load_sampler_model(contestant.source, merged).eval()
    try:
        yield model, tokenizer
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def finite(numbers: list[Any]) -> list[Any]:
    """Return what a model says, before it is kept on disk.

    Raises:
        UserError: If a number is NaN or infinity.
    """
    if not np.isfinite(numbers).all():
        raise UserError("log-probs: must be finite, got NaN or infinity; the model is broken on this data")
    return numbers


def answer_with_progress(
    contestant: Contestant, prompts: Sequence[PromptRecord], settings: SamplingSettings, workplace: Workplace
) -> list[list[Answer]]:
    """Return a model's answers as `answer_prompts` does, under a progress bar of their own."""
    with workplace.progress(f"sampling from {contestant.name}", len(prompts)) as advance:
        return answer_prompts(
            contestant,
            prompts,
            settings,
            workplace.batch_size,
            workplace.cache,
            lambda batch: advance(len(batch.prompts)),
        )


def answer_prompts(
    contestant: Contestant,
    prompts: Sequence[PromptRecord],
    settings: SamplingSettings,
    batch_size: int,
    cache: Path,
    on_batch: Callable[[Batch], None] = lambda batch: None,
    sampler: Sampler | None = None,
) -> list[list[Answer]]:
    """Return a model's answers to prompts, sampled now or kept from an earlier run.

    The file's name is a hash of the model's content, the prompts' turns, the settings, and what decides rounding (batch
    size, and whether vLLM samples), so that another path to the same model finds the same answers, and a killed run
    goes on where it stopped.

    Args:
        contestant: The model.
        prompts: What to answer; may be empty.
        settings: How to sample.
        batch_size: Answers that are decoded at once.
        cache: Folder of the kept answers; made if missing.
        on_batch: Called with each batch, kept ones first; for a progress bar.
        sampler: The model, open, for one that answers several times; where None, it is opened for this call.

    Returns:
        For each prompt its `settings.samples` answers, in the order of the prompts.

    Raises:
        UserError: If the model cannot be loaded or has no chat template.

    Cost: see `ropo.lm.sampling.sample_batches`; the model is not even loaded when all answers are kept.
    """
    if not prompts:
        return []
    identity = fingerprint_source(contestant.source)
    wanted = {
        "model": identity,
        "prompts": prompts_digest(prompts),
        **asdict(settings),
        "batch_size": batch_size,
        "backend": sampling_backend(),
    }
    path = cache / "answers" / f"{content_key(wanted)}.jsonl"
    with nullcontext(sampler) if sampler else Sampler(contestant.source) as model:
        return sample_with_journal(model, prompts, settings, batch_size, path, on_batch, identity=identity)
