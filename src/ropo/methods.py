"""The training methods by name: which adapter each makes, its own options, and the learning rate to start from."""

from __future__ import annotations

__all__ = ["METHODS", "adapter_config", "check_target_modules"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import HRAConfig, LoraConfig, OFTConfig, PeftConfig, PeftModel
from transformers import PreTrainedModel

from ropo.adapter import RopoConfig
from ropo.core.errors import UserError
from ropo.core.names import absent_layer

_COMMON_OPTIONS = ("target_modules", "exclude_modules", "layers_to_transform")
_ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the output head, instead of names


@dataclass(frozen=True)
class _Method:
    """Describe a training method.

    Attributes:
        adapter: Class of the adapter's configuration; None trains every weight.
        learning_rate: The rate that `ropo train` starts from, for Adam. RoPO's, LoRA's and OFT's are the lowest whose
            loss on validation pairs is within a standard error of the best, on a model of 135M (docs/evidence.md).
        options: The adapter's own options, with their defaults. RoPO's leave out the magnitudes that the paper and
            `RopoConfig` have: rotations alone forget less at the same gain (docs/evidence.md).
    """

    adapter: type[PeftConfig] | None
    learning_rate: float
    options: Mapping[str, Any]


METHODS: dict[str, _Method] = {
    "ropo": _Method(RopoConfig, 1e-3, {"reflections": 2, "givens": "bidirectional", "magnitude": False}),
    "lora": _Method(LoraConfig, 5e-4, {"r": 8, "lora_alpha": 16, "use_dora": False}),
    "oft": _Method(OFTConfig, 1e-4, {"oft_block_size": 32}),
    "hra": _Method(HRAConfig, 2e-4, {"r": 8}),
    "full": _Method(None, 1e-6, {}),
}


def adapter_config(method: str, options: Mapping[str, Any]) -> PeftConfig | None:
    """Return the adapter's configuration for a method.

    Args:
        method: A name in `METHODS`.
        options: The adapter options that were given; the others keep the method's defaults.

    Returns:
        A PEFT configuration for causal language modelling, or None for full fine-tuning.

    Raises:
        UserError: If the method is unknown, an option is not one of its own, or a value breaks its rule.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r}: must be one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    known = () if chosen.adapter is None else (*_COMMON_OPTIONS, *chosen.options)
    for name in options:
        if name not in known:
            own = ", ".join(known) or "no adapter options"
            raise UserError(f"{name}: is not an option of method {method!r}, which has {own}; leave it out")
    if chosen.adapter is None:
        return None
    values = {**chosen.options, **options, **_target_modules(options.get("target_modules"))}
    if method == "hra" and values["r"] % 2:
        raise UserError(
            f"r: must be even for method 'hra', got {values['r']}: it starts as pairs of reflections that cancel, and "
            f"an odd one is left over; give {values['r'] + 1}"
        )
    try:
        return chosen.adapter(task_type="CAUSAL_LM", **values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"method {method!r}: {error}") from error


def _target_modules(names: Any) -> dict[str, Any]:
    """Return the target modules as PEFT takes them: names in a list, or the one word for all."""
    if names is None or isinstance(names, str):
        return {} if names is None else {"target_modules": names}
    if _ALL_LINEAR in names:
        if len(names) > 1:
            raise UserError(f"target_modules: {_ALL_LINEAR!r} stands for all layers; leave the other names out")
        return {"target_modules": _ALL_LINEAR}
    return {"target_modules": list(names)}


def check_target_modules(model: PreTrainedModel | PeftModel, config: PeftConfig) -> None:
    """Check that every target module named by the user is a layer of the model, and not its output head.

    Raises:
        UserError: With the nearest names for one that does not exist.
    """
    names = getattr(config, "target_modules", None)
    if not names or isinstance(names, str):
        return
    layers = {name: module for name, module in model.named_modules() if getattr(module, "weight", None) is not None}
    if fault := absent_layer(names, layers, layers):
        raise UserError(fault)
    head = model.get_output_embeddings()
    for target in sorted(names):
        if any(each is head and (name == target or name.endswith(f".{target}")) for name, each in layers.items()):
            raise UserError(f"target_modules: {target!r} is the output head, which must not be adapted; leave it out")
