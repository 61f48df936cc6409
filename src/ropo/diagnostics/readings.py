"""What the warnings look at: changes against the reference, with the sampled units behind each."""

from __future__ import annotations

from collections.abc import Sequence

from ropo.diagnostics.answers import AnswerMeasure, length_ratio
from ropo.diagnostics.behaviour import Behaviour
from ropo.diagnostics.signals import Reading


def behaviour_readings(behaviour: Behaviour) -> dict[str, Reading]:
    """Return the changes of chosen and rejected answers per token; the units are the pairs."""
    chosen, rejected = zip(*behaviour.changes_per_token, strict=True)
    return {
        "chosen_change_per_token": Reading(behaviour.chosen_change_per_token, chosen),
        "rejected_change_per_token": Reading(behaviour.rejected_change_per_token, rejected),
    }


def answer_readings(policy: AnswerMeasure, reference: AnswerMeasure) -> dict[str, Reading]:
    """Return how length and repetition changed; the units are the prompts. No length ratio where it is undefined."""
    readings = {
        "repetition_rise": Reading(
            policy.repetition - reference.repetition,
            _differences(policy.repetition_by_prompt, reference.repetition_by_prompt),
        )
    }
    ratio = length_ratio(policy, reference)
    if ratio is not None:
        differences = _differences(policy.tokens_by_prompt, reference.tokens_by_prompt)
        readings["length_ratio"] = Reading(ratio, differences)
    return readings


def text_readings(rise: float, losses: Sequence[float], reference: Sequence[float]) -> dict[str, Reading]:
    """Return how the loss on plain text rose, over all tokens; the units are its windows."""
    return {"text_loss_rise": Reading(rise, _differences(losses, reference))}


def _differences(values: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    return tuple(after - before for after, before in zip(values, reference, strict=True))
