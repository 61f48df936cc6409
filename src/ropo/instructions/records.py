"""The instructions in a prompt's record: refused where no checker can check them, else what an answer is checked by."""

from __future__ import annotations

__all__ = ()

import json
from collections.abc import Callable, Mapping
from typing import Any

from ropo.core.errors import UserError
from ropo.instructions import checkers
from ropo.instructions.library import INSTRUCTIONS


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_words(value: object) -> bool:
    return isinstance(value, str) and value != "" and value == value.strip()


# parameter: whether a value is one, and which values are
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (lambda value: _is_number(value, 0), "a whole number, not below 0"),
    "limit": (lambda value: _is_number(value, 1), "a whole number above 0"),
    "low": (lambda value: _is_number(value, 0), "a whole number, not below 0"),
    "high": (lambda value: _is_number(value, 1), "a whole number above 0"),
    "word": (_is_words, "text without spaces around it"),
    "phrase": (_is_words, "text without spaces around it"),
    "language": (
        lambda value: isinstance(value, str) and value in checkers.VOCABULARIES,
        f"one of {', '.join(checkers.VOCABULARIES)}",
    ),
}


def check_instructions(instructions: object, where: str) -> None:
    """Refuse a prompt's instructions that no checker can check.

    Args:
        instructions: What the prompt's record has, whatever it is.
        where: The record, for the error.

    Raises:
        UserError: If it is no list of instructions of the library with their parameters.
    """
    if (fault := _fault_of(instructions)) is not None:
        raise UserError(f"{where}: {fault}")


def _fault_of(instructions: object) -> str | None:
    """Say what is wrong with a prompt's instructions, and the mend; None for good ones."""
    if (
        not isinstance(instructions, list)
        or not instructions
        or not all(isinstance(each, dict) for each in instructions)
    ):
        return (
            "has no `instructions`; write a list of {'name': ..., 'parameters': ...}, as "
            "`ropo.instructions.generate_prompts` does"
        )
    return next((fault for each in instructions if (fault := _fault_in(each)) is not None), None)


def _fault_in(instruction: Mapping[str, Any]) -> str | None:
    name, parameters = instruction.get("name"), instruction.get("parameters", {})
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        return f"instruction {name!r:.40}: is not in the library; choose from {', '.join(sorted(INSTRUCTIONS))}"
    known = sorted(INSTRUCTIONS[name].choices[0])
    if not isinstance(parameters, dict) or parameters.keys() != set(known):
        got = sorted(map(str, parameters)) if isinstance(parameters, dict) else _shown(parameters)
        return f"instruction {name}: takes the parameters {known}, got {got}; mend them"
    for parameter, value in parameters.items():
        fits, rule = _RULES[parameter]
        if not fits(value):
            return f"instruction {name}: {parameter} must be {rule}, got {_shown(value)}; mend the record"
    if "low" in parameters and parameters["low"] > parameters["high"]:
        low, high = parameters["low"], parameters["high"]
        return f"instruction {name}: low must not be above high, got {low} and {high}; let them change places"
    return None


def _shown(value: object) -> str:
    """Write a value as JSON has it, cut."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:40]


def satisfied(instructions: list[dict[str, Any]], answer: str) -> list[bool]:
    """Check an answer against each of a prompt's instructions.

    Args:
        instructions: As `generate_prompts` writes them: `name` and `parameters`.
        answer: The answer's text.

    Returns:
        One truth value an instruction, in order.

    Raises:
        UserError: If an instruction is not in the library, or its parameters do not fit.
    """
    if (fault := _fault_of(instructions)) is not None:
        raise UserError(fault)
    return [INSTRUCTIONS[each["name"]].check(answer, **each.get("parameters", {})) for each in instructions]
