"""What is wrong with a checkpoint, said before transformers stumbles over it, or of what it found."""

from __future__ import annotations

__all__ = ["check_values"]

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ropo.core.errors import UserError

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.gguf")
_OTHER_HEADS = re.compile(
    r"For(Sequence|Token)Classification|ForQuestionAnswering|ForMultipleChoice|ForMaskedLM|Reward"
)
_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth")


def check_source(source: str) -> None:
    """Refuse what can neither be a place on this machine nor a hub id.

    Raises:
        UserError: If it is empty, a path to nothing, or a file of another kind.
    """
    path = Path(source)
    if not source.strip():
        raise UserError("model: is named by nothing; give a hub id, a folder or a .gguf file")
    if path.is_file() and path.suffix != ".gguf":
        raise UserError(
            f"model {source}: is neither a folder nor a .gguf file; give a hub id, a folder or a .gguf file"
        )
    is_path = path.is_absolute() or source.startswith((".", "~")) or len(path.parts) > 2 or path.suffix in _SUFFIXES
    if is_path and not path.exists():
        raise UserError(f"model {source}: no such file or folder; check the path")


def check_checkpoint(path: Path) -> None:
    """Refuse a folder without a configuration or weights."""
    if not (path / "config.json").is_file():
        raise UserError(f"model {path}: the folder has no config.json; give the folder of a transformers checkpoint")
    if not any(file for pattern in WEIGHT_PATTERNS for file in path.glob(pattern)):
        raise UserError(f"model {path}: the folder has no weights (*.safetensors); copy them there or give a hub id")


def check_tokenizer(path: Path) -> None:
    """Refuse a folder without a tokenizer."""
    if not any(path.iterdir()):
        raise UserError(f"model {path}: the folder is empty; give the folder of a transformers checkpoint")
    names = [file.name for file in path.iterdir()]
    if not any("token" in name or name.startswith(("vocab", "spiece", "tekken")) for name in names):
        raise UserError(
            f"model {path}: the folder has no tokenizer (tokenizer.json, tokenizer_config.json); copy it there from "
            "the model that it was made of"
        )


def check_kind(source: str, architectures: list[str] | None) -> None:
    """Refuse a model with another head than a language model's, which would get a random one."""
    other = next((name for name in architectures or () if _OTHER_HEADS.search(name)), None)
    if other is not None:
        raise UserError(
            f"model {source}: is a {other}, which scores or fills in texts and cannot write them; give a causal "
            "language model (a reward model is a judge: --judge reward:MODEL)"
        )


def check_weights(source: str, found: dict[str, Any]) -> None:
    """Refuse a model part of whose weights would be random, as its files lack them or have them in other shapes."""
    missing, others = sorted(found["missing_keys"]), sorted(found["mismatched_keys"])
    if missing:
        raise UserError(
            f"model {source}: its files lack {len(missing)} of the weights that config.json asks for, such as "
            f"{missing[0]}; copy them anew, or give the whole model"
        )
    if others:
        name, stored, asked = others[0]
        raise UserError(
            f"model {source}: its files do not fit its config.json: {name} is {tuple(stored)} and should be "
            f"{tuple(asked)}; copy both anew"
        )


def check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse an adapter that holds NaN or infinity, before anything is computed with it.

    Args:
        tensors: Its tensors by name.
        source: Where they come from, for the message.

    Raises:
        UserError: Naming the first tensor that does.

    Cost: one pass over the adapter.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"adapter {source}: {name} holds NaN or infinity; train it again, or use an earlier checkpoint"
            )


def reason_of(error: Exception) -> str:
    """Return the first line of what an exception says, or all of it where that is short, for a message of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = lines[0] if len(lines[0]) > 40 else " ".join(line.strip() for line in lines)
    return f"{first:.200}"
