"""Each part of a report feeds the warnings with the right units; planted failures trip their own warning only."""

from __future__ import annotations

import pytest
import torch

from ropo.diagnostics.answers import length_ratio, measure_answers
from ropo.diagnostics.behaviour import measure_behaviour
from ropo.diagnostics.comparison import AnswerComparison, PolicyComparison, TextComparison, TextMeasure
from ropo.diagnostics.report import LayerSummary, find_warnings
from ropo.lm.sampling.settings import Answer

PROMPTS = 8
REFERENCE = torch.full((PROMPTS, 2), -40.0)
LENGTHS = torch.full((PROMPTS, 2), 20)


def behaviour(chosen: float, rejected: float):
    wobble = torch.linspace(-0.5, 0.5, PROMPTS).unsqueeze(1)
    return measure_behaviour(REFERENCE + torch.tensor([chosen, rejected]) + wobble, REFERENCE, LENGTHS)


def answers(*texts: str):
    samples = [[Answer(text, tuple(range(len(text.split()))), True) for text in texts] for _ in range(PROMPTS)]
    return measure_answers(samples, 100)


def compared(*texts: str) -> AnswerComparison:
    policy, reference = answers(*texts), answers("one two three four five six", "six five four three")
    return AnswerComparison(policy=policy, reference=reference, length_ratio=length_ratio(policy, reference), kl=None)


def text(rise: float) -> TextComparison:
    losses = [[2.0 + 0.01 * window + extra for window in range(8)] for extra in (rise, 0.0)]
    policy, reference = (
        TextMeasure(tokens=64, loss=sum(each) / 8, hidden_effective_rank=None, hidden_isotropy=None, losses=each)
        for each in losses
    )
    return TextComparison(policy=policy, reference=reference)


def layers(collapsed: int | None) -> LayerSummary:
    return LayerSummary(
        layers=1,
        energy=1.0,
        energy_change=None,
        largest_cosine_change=None,
        collapsed_pairs=collapsed,
        largest_orthogonality_error=None,
    )


HEALTHY = {
    "layers": layers(0),
    "behaviour": behaviour(1.0, -5.0),
    "answers": compared("one two three four five", "six five four three two"),
    "text": text(0.05),
}
PLANTS = {
    "neuron_collapse": {"layers": layers(1)},
    "displacement": {"behaviour": behaviour(-4.0, -10.0)},
    "rejected_collapse": {"behaviour": behaviour(1.0, -30.0)},
    "length_growth": {"answers": compared(" ".join(map(str, range(12))), "a b c d e f g h")},
    "repetition": {"answers": compared("a a a a a a", "b b b b b b")},
    "forgetting": {"text": text(0.3)},
}


@pytest.mark.parametrize("name", [None, *PLANTS])
def test_a_plant_trips_its_warning_and_only_it(name: str | None) -> None:
    parts = HEALTHY | (PLANTS[name] if name else {})
    compared = PolicyComparison(**{part: parts[part] for part in ("behaviour", "answers", "text")})
    found = find_warnings(parts["layers"], compared)
    assert [warning.split(":")[0] for warning in found] == ([name] if name else [])


def test_nothing_measured_warns_of_nothing() -> None:
    alone = AnswerComparison(policy=answers("a a a a a a"), reference=None, length_ratio=None, kl=None)
    assert find_warnings(layers(None), PolicyComparison(behaviour=None, answers=None, text=None)) == []
    no_reference = TextComparison(policy=text(9.0).policy, reference=None)
    assert find_warnings(layers(None), PolicyComparison(behaviour=None, answers=alone, text=no_reference)) == []


def read(**parts: object):
    return PolicyComparison(**{"behaviour": None, "answers": None, "text": None, **parts}).readings()


def test_units_are_pairs_prompts_and_windows() -> None:
    changes = read(behaviour=behaviour(-4.0, -10.0))
    assert changes["chosen_change_per_token"].changes[0] == pytest.approx((-4.0 - 0.5) / 20)
    assert changes["rejected_change_per_token"].changes[-1] == pytest.approx((-10.0 + 0.5) / 20)
    assert changes["chosen_change_per_token"].value == pytest.approx(-0.2)
    found = read(answers=compared("a a a a a a", "b c d e"))
    assert found["length_ratio"].value == 1.0
    assert found["length_ratio"].changes == (0.0,) * PROMPTS  # (6 + 4) / 2 tokens per prompt, before and after
    assert found["repetition_rise"].changes == pytest.approx((1 / 3,) * PROMPTS)  # 2 of 3 repeated in one of two
    assert found["repetition_rise"].value == pytest.approx(1 / 3)
    assert read(text=text(0.3))["text_loss_rise"].value == pytest.approx(0.3)
    assert read(text=text(0.3))["text_loss_rise"].changes == pytest.approx((0.3,) * 8)


def test_an_undefined_length_ratio_is_left_out() -> None:
    empty = measure_answers([[Answer("", (), False)]] * PROMPTS, 100)
    alone = AnswerComparison(policy=empty, reference=empty, length_ratio=length_ratio(empty, empty), kl=None)
    assert list(read(answers=alone)) == ["repetition_rise"]
