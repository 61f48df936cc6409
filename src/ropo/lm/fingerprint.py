"""Fingerprints of models as they are stored, by which records and results are matched."""

from __future__ import annotations

__all__ = ["fingerprint_folder", "fingerprint_source"]

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from transformers.utils import cached_file

from ropo.core.errors import UserError
from ropo.core.hub import hub_reason
from ropo.lm.adapters import adapter_base, is_adapter, strength_of
from ropo.lm.checkpoint_checks import WEIGHT_PATTERNS, check_source
from ropo.lm.strength import ADAPTER_CONFIG, split_strength

_CHUNK = 1 << 20


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
    if is_adapter(source):
        return _fingerprint_adapter(source)
    path = Path(source)
    check_source(source)
    if path.suffix == ".gguf" and path.is_file():
        return _hash_files([path])
    if path.is_dir():
        return _hash_files(_content(path))
    return hashlib.sha256(f"{source}@{_hub_commit(source)}".encode()).hexdigest()


def _fingerprint_adapter(source: str) -> str:
    """Hash an adapter's configuration and weights, its base model, and the strength that it acts at, if not 1."""
    strength = strength_of(source)  # refuses what is no JSON
    folder = Path(split_strength(source)[0])
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    del config["base_model_name_or_path"]  # a place, where the content counts
    config.pop("strength", None)
    files = [file for file in _content(folder) if file.name != ADAPTER_CONFIG]
    parts = [json.dumps(config, sort_keys=True), _hash_files(files), fingerprint_source(adapter_base(source))]
    if strength != 1:
        parts.append(f"strength {strength!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """Hash what lies in a folder of a model or an adapter, without the base that an adapter names.

    Args:
        folder: The folder.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    return _hash_files(_content(folder))


def _content(folder: Path) -> list[Path]:
    patterns = (*WEIGHT_PATTERNS, "*.json", "*.model", "*.txt", "*.jinja")
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.name != "run.json"})


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{'' if file.suffix == '.gguf' else file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _hub_commit(source: str) -> str:
    """Return the commit of a hub model, which is the name of the folder that its files are cached in."""
    try:
        file = cached_file(source, "config.json")
    except OSError as error:
        raise UserError(
            f"model {source}: is no folder here, and the hub gave none of that name ({hub_reason(error)}); check "
            "the name and the network, or give a folder or a .gguf file"
        ) from error
    return Path(str(file)).parent.name
