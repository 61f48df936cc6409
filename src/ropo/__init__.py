"""RoPO: preference-tune language models by rotating their weights.

Importing the package registers the adapter with PEFT, so that `get_peft_model`, `PeftModel.from_pretrained` and
transformers' `load_adapter` know it. The trainer is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropo.adapter import RopoConfig

if TYPE_CHECKING:
    from ropo.training.config import PreferenceConfig
    from ropo.training.trainer import PreferenceTrainer

__version__ = "0.1.0"
__all__ = ["PreferenceConfig", "PreferenceTrainer", "RopoConfig"]

_LAZY = {"PreferenceConfig": "ropo.training.config", "PreferenceTrainer": "ropo.training.trainer"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ropo' has no attribute {name!r}")
