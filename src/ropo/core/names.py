"""The name that somebody meant."""

from __future__ import annotations

__all__ = ["absent_layer", "did_you_mean"]

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or nothing when none is near."""
    nearest = get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def absent_layer(targets: Iterable[str], modules: Iterable[str], offered: Iterable[str]) -> str | None:
    """Say which target no module of a model bears; None where each has one.

    Args:
        targets: Ends of names, as PEFT takes `target_modules`.
        modules: The names of the model's modules.
        offered: Those that could be meant.
    """
    modules = list(modules)
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            endings = sorted({name.rpartition(".")[2] for name in offered})
            hint = did_you_mean(target, endings) or f"; it has {', '.join(endings[:8])}"
            return f"target_modules: the model has no layer {target!r}{hint}"
    return None
