"""The models that a suite compares: their names, a fingerprint of each, and loading one at a time."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from ropo.core.errors import UserError
from ropo.evaluation.results import Change, Metric, ModelResult
from ropo.lm.loading import (
    WEIGHT_PATTERNS,
    adapter_base,
    adapter_config_of,
    check_source,
    is_adapter,
    load_tokenizer,
)
from ropo.lm.sampling.batches import load_sampler_model
from ropo.lm.sampling.journalled import model_name

ADAPTER_CONFIG = "adapter_config.json"
CHUNK = 1 << 20


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
        specs: `SOURCE` or `NAME=SOURCE` each; without a name it is the last part of a path, or the hub id.

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
def loaded(contestant: Contestant) -> Iterator[tuple[Any, PreTrainedTokenizerBase]]:
    """Load a model (an adapter merged) and its tokenizer, on the GPU if there is one, and drop the model afterwards."""
    tokenizer = load_tokenizer(contestant.source)
    model: Any = load_sampler_model(contestant.source).eval()
    try:
        yield model, tokenizer
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@lru_cache(maxsize=64)
def fingerprint_source(source: str) -> str:
    """Hash the content of a model: its weights, configuration and tokenizer, for an adapter with its base model.

    Names and places do not count: a copy has the fingerprint of the original. A hub model has that of its commit.

    Args:
        source: Whatever `ropo.lm.loading.load_policy` takes.

    Returns:
        A SHA-256 in hexadecimal digits.

    Raises:
        UserError: If there is no such model.

    Cost: one read of the files, a second for each 1-2 GB; once in a process.
    """
    path = Path(source)
    check_source(source)
    if path.suffix == ".gguf" and path.is_file():
        return _hash_files([path])
    if is_adapter(source):
        adapter_config_of(source)  # refuses what is no JSON
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        del config["base_model_name_or_path"]  # a place, where the content counts
        files = [file for file in _content(path) if file.name != ADAPTER_CONFIG]
        parts = [json.dumps(config, sort_keys=True), _hash_files(files), fingerprint_source(adapter_base(source))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if path.is_dir():
        return _hash_files(_content(path))
    return hashlib.sha256(f"{source}@{_hub_commit(source)}".encode()).hexdigest()


def _parse(spec: str) -> Contestant:
    name, equals, source = spec.partition("=")
    if not equals or Path(spec).exists():
        name, source = model_name(str(Path(spec).resolve()) if Path(spec).exists() else spec), spec
    if not name.strip() or not source.strip():
        raise UserError(f"model {spec!r}: must be SOURCE or NAME=SOURCE; mend it")
    return Contestant(name, source)


def _content(folder: Path) -> list[Path]:
    patterns = (*WEIGHT_PATTERNS, "*.json", "*.model", "*.txt", "*.jinja")
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.name != "run.json"})


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{'' if file.suffix == '.gguf' else file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _hub_commit(source: str) -> str:
    """Return the commit of a hub model, which is the name of the folder that its files are cached in."""
    try:
        file = cached_file(source, "config.json")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {source}: is no folder here, and the hub gave none of that name ({reason}); check the name and the "
            "network, or give a folder or a .gguf file"
        ) from error
    return Path(str(file)).parent.name
