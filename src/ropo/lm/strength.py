"""How strongly an adapter acts: `DIR@0.5` names the adapter in DIR turned half way, whatever its method allows."""

from __future__ import annotations

__all__ = ["check_strength", "check_whole", "split_strength", "strength_dial", "with_strength"]

import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from ropo.core.errors import UserError

_STRONGEST = 2.0
ADAPTER_CONFIG = "adapter_config.json"

# PEFT's methods whose layers add `scaling[adapter]` times something to what the base gives. Others have a `scale_layer`
# that warns and does nothing (OFT, BOFT, HRA, MiSS, DEFT), or none.
_ADDED = ("LORA", "ADALORA", "LOHA", "LOKR")
_KEEPS_BASE = (True, False, "gaussian", "eva")  # of LoRA's initialisations; the others write into the base's weights


def check_strength(value: Any) -> float:
    """Return a strength as a number.

    Args:
        value: A number, or a text that is one.

    Raises:
        UserError: If it is none, or not within 0 .. 2.
    """
    number = math.nan
    if isinstance(value, str) or (isinstance(value, Real) and not isinstance(value, bool)):
        with suppress(ValueError):
            number = float(value)
    if not 0 <= number <= _STRONGEST:
        raise UserError(
            f"strength: must be a number from 0 (the base model) to {_STRONGEST:g}, got {value!r}; 1 is the adapter as "
            "it was trained"
        )
    return number


def split_strength(source: str) -> tuple[str, float | None]:
    """Read `DIR@0.5`; the one place that does.

    Args:
        source: Whatever names a model. A file or folder of just this name goes first, `@` and all.

    Returns:
        The folder, and the strength that was asked for; `source` itself and None where none was.

    Raises:
        UserError: If what stands before the `@` is there but no adapter, or what stands behind it no strength.
    """
    folder, at, strength = source.rpartition("@")
    is_path = "/" in strength  # a folder whose name has an @, and what is in it
    if not at or not folder or is_path or Path(source).exists() or not Path(folder).exists():
        return source, None
    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"model {source}: {folder} is no PEFT adapter, and only an adapter has a strength; leave @{strength} out"
        )
    try:
        return folder, check_strength(strength)
    except UserError as error:
        raise UserError(f"adapter {source}: {error}") from error


def with_strength(source: str, strength: Any) -> str:
    """Name an adapter at a strength, so that `split_strength` reads it.

    The slash keeps it from being the name of a folder beside the adapter, such as one that it was merged into.

    Raises:
        UserError: If `source` names a strength already, or `strength` is none.
    """
    if split_strength(source)[1] is not None:
        raise UserError(f"model {source}: names a strength already, and --strength another; give one of them")
    return f"{source.rstrip('/')}/@{check_strength(strength)!r}"


def check_whole(config: Any) -> None:
    """Refuse an adapter that holds more than a change which can be scaled.

    Raises:
        UserError: Naming what it holds.
    """
    for name in ("modules_to_save", "trainable_token_indices"):
        if getattr(config, name, None):
            raise UserError(
                f"strength: {name} were trained in full and would act at any strength; only adapters without them "
                "have one"
            )
    if getattr(config, "bias", "none") != "none":
        raise UserError(
            f"strength: bias={config.bias!r} trained biases in full, which would act at any strength; only adapters "
            "without trained biases have one"
        )


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
