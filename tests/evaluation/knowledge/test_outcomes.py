"""How lm-eval's numbers follow from the questions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropo.core.intervals import jackknife_interval
from ropo.evaluation.knowledge.harness import outcome_of, outcomes_of
from ropo.evaluation.unit_values import ratio_values


def test_kinds():
    kinds = {
        "mean": outcome_of(0.25, [1, 0, 0, 0]),
        "perplexity": outcome_of(math.exp(2.0), [-1.0, -3.0]),
        "ratio": outcome_of(0.75, [[True], [True, False, True]]),
        "alone": outcome_of(0.3, [1, 0, 0, 0]),
    }
    assert {name: outcome.kind for name, outcome in kinds.items()} == {name: name for name in kinds}
    assert [outcome.count for outcome in kinds.values()] == [4, 2, 2, 4]
    assert kinds["mean"].unit_values("").values.dtype == bool
    assert outcome_of(0.4, [0.3, 0.5]).unit_values("").values.dtype == float
    assert kinds["perplexity"].unit_values("").exponential
    assert kinds["ratio"].unit_values("").whole == 0.75
    assert kinds["alone"].unit_values("") is None
    assert outcome_of(0.5, []).kind == "alone"
    assert outcome_of(0.5, [[True], [True, False, True]]).kind == "alone"
    assert outcome_of(0.5, [(1, 2), (3, 4)]).kind == "alone"


def test_a_group_is_one_metric_over_the_questions_of_its_tasks():
    def samples(*verdicts, kind="none"):
        return [{"filter": kind, "acc": verdict} for verdict in verdicts]

    results = {
        "group_subtasks": {"mmlu": ["stem"], "stem": ["physics", "maths"], "gsm": []},
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": 0.6, "acc_stderr,none": 0.1},
            "stem": {"acc,none": 0.6},
            "physics": {"acc,none": 1.0},
            "maths": {"acc,none": 1 / 3},
            "gsm": {"acc,strict": 0.5, "acc,loose": 1.0, "acc_stderr,strict": "N/A", "nothing,none": math.nan},
        },
        "samples": {
            "physics": samples(1.0, 1.0),
            "maths": samples(0.0, 1.0, 0.0),
            "gsm": samples(1.0, 0.0, kind="strict") + samples(1.0, 1.0, kind="loose"),
        },
    }
    outcomes = outcomes_of(results)
    assert set(outcomes) == {"mmlu/acc", "gsm/acc/strict", "gsm/acc/loose"}
    assert outcomes["mmlu/acc"].units == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert {outcome.kind for outcome in outcomes.values()} == {"mean"}
    assert outcomes["gsm/acc/strict"].units == [1.0, 0.0]


def test_a_ratio_by_the_jackknife_agrees_with_the_delta_method():
    generator = np.random.default_rng(0)
    lower = generator.integers(1, 9, size=2000).astype(float)
    upper = generator.binomial(lower.astype(int), 0.3).astype(float)
    measured = ratio_values(upper, lower, "")
    found = jackknife_interval(measured.whole, measured.values)
    assert found.value == upper.sum() / lower.sum()
    residual = upper - found.value * lower
    half = 1.959964 * residual.std(ddof=1) / lower.mean() / np.sqrt(len(lower))
    assert found.high - found.value == pytest.approx(half, rel=0.01)
    assert jackknife_interval(0.5, ratio_values(np.ones(1), np.full(1, 2.0), "").values).low is None
