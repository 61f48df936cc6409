"""RoPO: preference-tune language models by rotating their weights.

Importing the package loads neither PyTorch nor PEFT; its names are loaded when they are first asked for. The adapter is
registered, so that `get_peft_model`, `PeftModel.from_pretrained` and transformers' `load_adapter` know it, as soon as
PEFT is imported, whichever of the two comes first; `register()` does so at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropo_autoload import when_peft_comes

if TYPE_CHECKING:
    from ropo.adapter import RopoConfig
    from ropo.training.config import PreferenceConfig
    from ropo.training.trainer import PreferenceTrainer

__version__ = "0.1.0"
__all__ = ["PreferenceConfig", "PreferenceTrainer", "RopoConfig", "register"]

_NAMES = {
    "PreferenceConfig": "ropo.training.config",
    "PreferenceTrainer": "ropo.training.trainer",
    "RopoConfig": "ropo.adapter",
}
_ROOMS = ("adapter", "diagnostics", "evaluation", "models", "ops", "pairs", "preferences", "report", "training")


def register() -> None:
    """Register the adapter with PEFT, which this imports; idempotent."""
    import_module("ropo.adapter")


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _ROOMS:
        return import_module(f"ropo.{name}")
    raise AttributeError(f"module 'ropo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_ROOMS})


when_peft_comes()
