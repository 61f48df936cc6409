"""Which layers of a model are adapted: defaults, what is left out, and what is refused."""

from __future__ import annotations

__all__ = ()

import re
import warnings
from collections import ChainMap
from collections.abc import Iterator
from typing import Any

from peft import NoMatchingPeftModuleError
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from ropo.adapter.config import RopoConfig
from ropo.core.errors import UserError
from ropo.core.names import absent_layer

QUERY_AND_VALUE = ["q_proj", "v_proj"]
_LANGUAGE_TOWER = "language_model"  # as transformers calls it in every model of several towers
# PEFT adapts phi's MLP as well; the method is about queries and values. A view: what PEFT's mapping gains is seen.
DEFAULT_TARGETS: ChainMap[str, Any] = ChainMap(
    {"phi": QUERY_AND_VALUE}, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
)
FUSED = ["qkv_proj", "query_key_value", "c_attn", "Wqkv"]  # one layer that holds queries, keys and values


class NoSuchLayerError(UserError, NoMatchingPeftModuleError):
    """Report targets that the model does not have: PEFT's own type, for who waits for that, in our words."""


def leave_out_other_towers(config: RopoConfig, model: nn.Module) -> None:
    """Leave a vision or audio tower as it is by default: text pairs would give its adapters no gradient."""
    names = {name for name in linear_names(model) if name.rpartition(".")[2] in (config.target_modules or ())}
    others = {name for name in names if _LANGUAGE_TOWER not in name.split(".")}
    if others and others != names and not isinstance(config.exclude_modules, str):
        config.exclude_modules = set(config.exclude_modules or ()) | others  # type: ignore[assignment]


def leave_out_bypassed(config: RopoConfig, model: nn.Module) -> None:
    """Leave out, of all linear layers, those whose weights their owner reads past any adapter, and say so."""
    bypassed = read_by_attention(model)
    if bypassed and isinstance(config.exclude_modules, str):
        config.exclude_modules = "|".join([f"(?:{config.exclude_modules})", *map(re.escape, sorted(bypassed))])
    elif bypassed:
        config.exclude_modules = set(config.exclude_modules or ()) | bypassed  # type: ignore[assignment]
    if bypassed:
        warnings.warn(
            f"target_modules: {', '.join(sorted(bypassed))} not adapted: nn.MultiheadAttention reads such weights past "
            "an adapter",
            stacklevel=2,
        )


def read_by_attention(model: nn.Module) -> set[str]:
    """Return the linear layers that are parts of an `nn.MultiheadAttention`, whose weights it hands to a function."""
    owners = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return {f"{name}.out_proj".removeprefix(".") for name in owners}


def base_of(module: nn.Module | None) -> nn.Module | None:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return a model's modules by name, but nothing that lies inside an adapted layer."""
    adapted: list[str] = []
    for name, module in model.named_modules():
        if not name.startswith(tuple(adapted)):
            yield name, module
            if isinstance(module, BaseTunerLayer):
                adapted.append(f"{name}.")


def linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in layers_of(model) if isinstance(base_of(module), nn.Linear | Conv1D)]


def check_target_names(config: RopoConfig, model: nn.Module) -> None:
    """Refuse a target that no module bears: PEFT would pass over it as long as another one matches."""
    targets: Any = config.target_modules
    if isinstance(targets, str):
        return
    if fault := absent_layer(targets, [name for name, _ in layers_of(model)], linear_names(model)):
        raise NoSuchLayerError(fault)


def check_layer(name: str, layer: nn.Module | None, head: nn.Module | None) -> None:
    if layer is head and head is not None:
        raise UserError(
            f"target_modules: {name} is the output head, which is read past the adapter when log-probs are computed; "
            "leave it out (exclude_modules)"
        )
    if not isinstance(layer, nn.Linear | Conv1D) and (layer is None or resolve_quantization_backend(layer) is None):
        raise UserError(
            f"target_modules: {name} is a {type(layer).__name__}; RoPO adapts nn.Linear and Conv1D layers; "
            "name linear layers inside it, or those of the attention (fused experts and embeddings cannot be adapted)"
        )
