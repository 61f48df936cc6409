"""Judge outputs against a reference's, in random order, and some of them in both orders."""

from __future__ import annotations

__all__ = ()

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ropo.evaluation.alpaca_eval.formats import Outputs, instruction_of
from ropo.evaluation.alpaca_eval.win_rate import NO_VERDICT
from ropo.judging.judge import Duel, Judge, OrderCheck, check_orders, count_read, count_reasons
from ropo.lm.prompts import PromptRecord


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of a model's outputs.

    Args:
        wins: Probability that the model's output is better, for each prompt; 0.5 without a verdict.
        missing: Where there is no verdict.
        reasons: Why, with counts.
        orders: The prompts that were judged in both orders.
        equal: Prompts where both outputs are the same text: a tie that nobody is asked about.
        read: How many verdicts, in both orders, were read from what, or why not; empty where the judge writes none.
    """

    wins: Float[np.ndarray, " n"]
    missing: Bool[np.ndarray, " n"]
    reasons: dict[str, Any]
    orders: OrderCheck
    equal: int
    read: dict[str, int] = field(default_factory=dict)


def judge_outputs(
    judge: Judge,
    prompts: Sequence[PromptRecord],
    outputs: Outputs,
    reference: Outputs,
    seed: int,
    swapped: int,
    advance: Callable[[int], None] = lambda duels: None,
) -> Verdicts:
    """Ask a judge about every prompt.

    The order of the two outputs is drawn from the seed and the instruction, so it does not depend on which other
    prompts there are.

    Args:
        judge: Who says which output is better.
        prompts: What was asked.
        outputs: The model's.
        reference: The reference's.
        seed: Seed of the orders, and of the choice of prompts that are judged in both.
        swapped: How many those are, at most.
        advance: Called with the number of duels just judged; for a progress bar.

    Returns:
        The verdicts.
    """
    asked = [i for i in range(len(prompts)) if outputs.texts[i] != reference.texts[i]]
    model_first = {i: Random(f"{seed} {instruction_of(prompts[i])}").random() < 0.5 for i in asked}
    shown = {i: _duel(prompts[i], outputs.texts[i], reference.texts[i], model_first[i]) for i in asked}
    both = sorted(Random(f"{seed} swapped").sample(asked, min(swapped, len(asked))))
    found = judge.prefer([*shown.values(), *(shown[i].swapped() for i in both)], advance)
    verdicts = dict(zip(asked, found, strict=False))
    wins = np.full(len(prompts), NO_VERDICT)
    missing = np.zeros(len(prompts), dtype=bool)
    for i, verdict in verdicts.items():
        missing[i] = verdict.value is None
        if verdict.value is not None:
            wins[i] = 1.0 - verdict.value if model_first[i] else verdict.value
    orders = check_orders([verdicts[i] for i in both], found[len(asked) :])
    read = count_read(found)
    equal = len(prompts) - len(asked)
    return Verdicts(wins, missing, count_reasons(list(verdicts.values())), orders, equal, read)


def duels_to_judge(outputs: Outputs, reference: Outputs, swapped: int) -> int:
    """Return how many duels `judge_outputs` asks about."""
    asked = sum(one != other for one, other in zip(outputs.texts, reference.texts, strict=True))
    return asked + min(swapped, asked)


def _duel(prompt: PromptRecord, model: str, reference: str, model_first: bool) -> Duel:
    return Duel(prompt, model, reference) if model_first else Duel(prompt, reference, model)
