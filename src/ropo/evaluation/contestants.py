"""The models that a suite compares: their names, and loading one at a time."""

from __future__ import annotations

__all__ = ["Contestant", "parse_contestants"]

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from transformers import PreTrainedTokenizerBase

from ropo.core.errors import UserError
from ropo.evaluation.results import Change, Metric, ModelResult
from ropo.lm.loading import load_tokenizer
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
    compared: Sequence[tuple[list[Metric], list[Change]]],
) -> list[ModelResult]:
    """Return each model's metrics and changes under its name."""
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


def _parse(spec: str) -> Contestant:
    name, equals, source = spec.partition("=")
    is_place = Path(split_strength(spec)[0]).exists()  # whose name may have an = in it
    if not equals or is_place:
        name, source = model_name(str(Path(spec).resolve()) if Path(spec).exists() else spec), spec
    if not name.strip() or not source.strip():
        raise UserError(f"model {spec!r}: must be SOURCE or NAME=SOURCE; mend it")
    return Contestant(name, source)
