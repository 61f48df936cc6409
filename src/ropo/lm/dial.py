"""Turn an adapter that is on a model to a strength, by whatever means its method has."""

from __future__ import annotations

__all__ = ["strength_dial"]

from collections.abc import Callable
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from ropo.core.errors import UserError
from ropo.lm.strength import check_whole

# PEFT's methods whose layers add `scaling[adapter]` times something to what the base gives. Others have a `scale_layer`
# that warns and does nothing (OFT, BOFT, HRA, MiSS, DEFT), or none.
_ADDED = ("LORA", "ADALORA", "LOHA", "LOKR")
_KEEPS_BASE = (True, False, "gaussian", "eva")  # of LoRA's initialisations; the others write into the base's weights


def strength_dial(model: PeftModel, source: str) -> Callable[[float], None]:
    """Return what sets the strength of a model's active adapter.

    A method that has a strength of its own (`set_strength`) is asked; PEFT's methods that add something to the base's
    output add t times that, as their `scale_layer` does. t = 1 is the adapter as trained, whatever was set before.

    Args:
        model: With its adapter on, not merged.
        source: Its name, for messages.

    Returns:
        A function of the strength, within 0 .. 2. It raises `UserError` where the method has none.
    """
    tuner: Any = model.base_model
    if hasattr(tuner, "set_strength"):
        return lambda strength: _named(source, lambda: tuner.set_strength(strength))
    config: Any = model.active_peft_config
    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    scales: list[tuple[dict[str, float], str, float]] = [
        (layer.scaling, name, layer.scaling[name])
        for layer in layers
        for name in layer.active_adapters
        if name in getattr(layer, "scaling", ())
    ]

    def turn(strength: float) -> None:
        if strength != 1:
            _named(source, lambda: _check_added(config, layers))
        for scaling, name, trained in scales:
            scaling[name] = trained if strength == 1 else strength * trained

    return turn


def _check_added(config: Any, layers: list[Any]) -> None:
    """Refuse a method whose layers do not add a multiple of something to what the base alone gives."""
    method = str(config.peft_type.value)
    if method not in _ADDED:
        raise UserError(
            f"strength: PEFT scales no {method} adapter; ropo, lora, adalora, loha and lokr have a strength"
        )
    check_whole(config)
    variants = sorted({type(each).__name__ for layer in layers for each in getattr(layer, "lora_variant", {}).values()})
    if variants:
        raise UserError(f"strength: {', '.join(variants)} is no multiple of a change; only plain LoRA has a strength")
    initial = getattr(config, "init_lora_weights", True)
    if initial not in _KEEPS_BASE:
        raise UserError(
            f"strength: init_lora_weights={initial!r} changed the base's own weights, so that strength 0 would not be "
            "the base; convert the adapter to plain LoRA first (path_initial_model_for_weight_conversion)"
        )


def _named(source: str, act: Callable[[], None]) -> None:
    """Do something, and say of which adapter a mistake is."""
    try:
        act()
    except UserError as error:
        raise UserError(f"adapter {source}: {error}") from error
