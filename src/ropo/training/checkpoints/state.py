"""Nested state, as optimizers and schedulers have it, in a safetensors and a JSON file: nothing is ever unpickled."""

from __future__ import annotations

__all__ = ()

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_state(state: Any, stem: Path) -> None:
    """Write `stem.safetensors`, the tensors of a state, and `stem.json`, all the rest.

    Args:
        state: Dictionaries, lists and tuples of tensors, numbers, strings and None.
        stem: The path without a suffix.

    Raises:
        TypeError: If the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    layout = json.dumps(_take_apart(state, tensors))
    save_file(tensors, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(layout, encoding="utf-8")


def load_state(stem: Path) -> Any:
    """Read what `save_state` wrote, bit for bit, onto the CPU."""
    # Copies, because the file's own memory is not aligned as tensors otherwise are.
    tensors = {name: tensor.clone() for name, tensor in load_file(stem.with_suffix(".safetensors")).items()}
    return _put_together(json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")), tensors)


def _take_apart(state: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        name = str(len(tensors))
        tensors[name] = state.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(state, dict):
        return {"dict": [[_take_apart(key, tensors), _take_apart(value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return {type(state).__name__: [_take_apart(value, tensors) for value in state]}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"state: holds a {type(state).__name__}, which is neither a tensor nor plain data")


def _put_together(layout: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(layout, dict):
        return layout
    ((kind, content),) = layout.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_put_together(key, tensors): _put_together(value, tensors) for key, value in content}
    values = (_put_together(value, tensors) for value in content)
    return tuple(values) if kind == "tuple" else list(values)


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator: Python's, NumPy's, PyTorch's on the CPU and on each GPU."""
    numpy: Any = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set every global random generator to a state of `random_state`."""
    random.setstate(state["python"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
