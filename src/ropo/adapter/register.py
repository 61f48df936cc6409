"""Make PEFT know the method ROPO, whose name its own enumeration does not have."""

from __future__ import annotations

__all__ = ()

from typing import Any

from peft import mapping


class _PeftTypeName(str):
    """A PEFT type outside PEFT's enumeration, that answers as its members do.

    PEFT refuses names that its enumeration does not list, and transformers' `load_adapter` asks for `.value`; PEFT's
    status helpers cut the type out of `str(...)`.
    """

    __slots__ = ()

    @property
    def value(self) -> str:
        return str.__str__(self)

    @property
    def name(self) -> str:
        return str.__str__(self)

    def __str__(self) -> str:
        return f"PeftType.{self.value}"


ROPO = _PeftTypeName("ROPO")


def register_method(config: type, model: type[Any]) -> None:
    """Enter the method in the mappings that PEFT, transformers and TRL look methods up in."""
    tables: tuple[tuple[dict[Any, Any], Any], ...] = (
        (mapping.PEFT_TYPE_TO_CONFIG_MAPPING, config),
        (mapping.PEFT_TYPE_TO_TUNER_MAPPING, model),
        (mapping.PEFT_TYPE_TO_PREFIX_MAPPING, model.prefix),
    )
    for table, entry in tables:
        table[ROPO] = entry
