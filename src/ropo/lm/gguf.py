"""Read a `.gguf` file: slowly once, and from then on from a converted copy in the cache.

transformers reads the header several times in Python and looks every tensor's name up in a table that it builds anew;
that takes a minute of a slow machine for 135M parameters, in every command. So the first command keeps what it made as
safetensors, under a name made from the file's content and the versions that decide the result.
"""

from __future__ import annotations

__all__ = ["quiet_about_words"]

import functools
import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ropo.core.cache import SOURCE, cache_root, keep_folder, size_of
from ropo.core.errors import UserError
from ropo.core.files import check_file
from ropo.lm.capacity import embedding_rows

logger = logging.getLogger(__name__)

_FORMAT = 1  # of an entry; a change of what is written there needs another number
_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, RuntimeError)


def load_gguf_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load the model of a GGUF file with plain weights.

    Returns:
        The model in evaluation mode, which names the file as its place.

    Raises:
        UserError: If the file is missing, is none that transformers can read, or the library `gguf` is missing.

    Cost: the first time a conversion in float32, afterwards one read of the copy.
    """
    read = functools.partial(AutoModelForCausalLM.from_pretrained, dtype=dtype, local_files_only=True)
    model = _kept(path, "model", _convert, read)
    if model.dtype != dtype:  # converted in memory
        model = _rounded(model, dtype)
    model.name_or_path = model.config._name_or_path = str(path)
    model._ropo_rows = embedding_rows(model)
    return model.eval()


def load_gguf_config(path: Path) -> PreTrainedConfig:
    """Read the configuration of a GGUF file, from its converted copy where there is one, as the header takes seconds.

    Raises:
        UserError: As in `load_gguf_model`.
    """
    check_file("model", path)
    with _telling_of_bad_files(path):
        copy = cache_root() / "gguf" / _key(path) / "model"
        with suppress(*_UNREADABLE):
            if copy.is_dir():
                return AutoConfig.from_pretrained(copy)
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


@contextmanager
def quiet_about_words(model: Any) -> Iterator[None]:
    """Silence PEFT while it saves an adapter to a `.gguf` model whose vocabulary is the file's.

    PEFT looks for the base model's config.json to see whether there are new words, and tells of a file that has none.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    unchanged = getattr(base, "_ropo_rows", None) == embedding_rows(base)
    with warnings.catch_warnings():
        if unchanged:
            warnings.filterwarnings("ignore", message="Could not find a config file in .*gguf")
        yield


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a GGUF file."""
    tokenizer = _kept(path, "tokenizer", _convert_tokenizer, AutoTokenizer.from_pretrained)
    tokenizer.name_or_path = str(path)
    return tokenizer


def plain_model(loaded: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Move weights into a model built afresh from the same configuration.

    transformers marks a model that was loaded quantised, although its weights no longer are, and then refuses to train
    or save it.
    """
    config, name = loaded.config, str(loaded.name_or_path)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    for buffer_name, buffer in loaded.named_buffers():  # rotary tables are not in the state dict
        module, _, leaf = buffer_name.rpartition(".")
        model.get_submodule(module).register_buffer(leaf, buffer, persistent=False)
    model.generation_config = loaded.generation_config
    model.name_or_path = config._name_or_path = name
    return model.eval()


def _kept(path: Path, kind: str, convert: Callable[[Path], Any], read: Callable[[Path], Any]) -> Any:
    """Return what `read` makes of the copy, which is made of what `convert` returns where there is none."""
    check_file("model", path)
    folder = cache_root() / "gguf" / _key(path) / kind
    if folder.is_dir():
        try:
            return read(folder)
        except _UNREADABLE:  # damaged since: it can be made again
            shutil.rmtree(folder, ignore_errors=True)
    with _telling_of_bad_files(path):
        made = convert(path)
    try:
        keep_folder(folder, functools.partial(_write, made, path))
        kept = read(folder)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        logger.warning(
            f"gguf: {path.name} was converted in memory, as every command will do again, because {cache_root()} "
            f"cannot be written ({reason:.120}); set XDG_CACHE_HOME to a folder that can"
        )
        return made
    if kind == "model":
        logger.warning(
            f"gguf: {path.name} is converted and kept in {folder.parent} ({size_of(folder) / 1e9:.2f} GB); "
            "`ropo cache --clear` deletes it"
        )
    return kept


def _write(made: Any, path: Path, folder: Path) -> None:
    weights = sum(each.nbytes for each in made.parameters()) if isinstance(made, PreTrainedModel) else 0
    free = shutil.disk_usage(folder).free
    if weights > free:
        raise OSError(f"{weights / 1e9:.1f} GB are needed and {free / 1e9:.1f} free")
    made.save_pretrained(folder)
    (folder / SOURCE).write_text(json.dumps({"name": path.name, "bytes": path.stat().st_size}), encoding="utf-8")


def _key(path: Path) -> str:
    status = path.stat()
    content = _hash(str(path.resolve()), status.st_size, status.st_mtime_ns)
    parts = f"{_FORMAT} {content} transformers {version('transformers')} gguf {_gguf_version()}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


@functools.cache
def _hash(path: str, size: int, modified: int) -> str:
    """Hash a file's content, once in a process for each state that it is in."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _gguf_version() -> str:
    try:
        return version("gguf")
    except ModuleNotFoundError:
        return "none"  # what was converted while it was there is under another key, and asks for it again


def _rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Round the weights in place; buffers, such as rotary frequencies, stay in float32 as in a model that is read."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    model.config.dtype = dtype
    return model


def _convert(path: Path) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return plain_model(loaded, torch.float32)


def _convert_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@contextmanager
def _telling_of_bad_files(path: Path) -> Iterator[None]:
    """Say in one line why a GGUF file cannot be read."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"model {path}: .gguf files need the library gguf, which is not installed; pip install 'ropo[gguf]'"
        ) from error
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # readers trip over a damaged file in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model {path}: cannot be read as a GGUF file ({reason:.160}); copy it anew, or give another model"
        ) from error
