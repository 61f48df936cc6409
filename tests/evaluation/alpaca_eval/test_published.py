"""Win rates against the published ones of AlpacaEval 2, from its own verdicts."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from ropo.evaluation.alpaca_eval import length_control
from ropo.evaluation.alpaca_eval.judging import Verdicts
from ropo.evaluation.alpaca_eval.length_control import LARGEST, LIMIT, fit_length_control
from ropo.evaluation.alpaca_eval.metrics import Judged, follows_length
from ropo.evaluation.alpaca_eval.win_rate import NO_VERDICT, standard_error, win_rate
from ropo.judging.judge import OrderCheck


@pytest.fixture(scope="module")
def published(shared_data):
    with gzip.open(shared_data / "reference" / "alpaca_eval_2.json.gz") as file:
        models = json.load(file)
    assert len(models) == 12
    assert all(len(model["annotations"]) == 805 for model in models)
    return models


def wins_of(model):
    given = [annotation["preference"] for annotation in model["annotations"]]
    return np.array([preference - 1 if preference else NO_VERDICT for preference in given])


def extra_length_of(model):
    return np.array([each["len_model"] - each["len_baseline"] for each in model["annotations"]], dtype=float)


def test_win_rates_and_standard_errors_are_the_published_ones(published):
    for model in published:
        wins = wins_of(model)
        assert win_rate(wins) == pytest.approx(model["win_rate"], abs=1e-4), model["model"]
        assert standard_error(wins) == pytest.approx(model["standard_error"], abs=1e-4), model["model"]


def test_length_controlled_rates_follow_the_published_ones(published):
    """Without difficulties: a rank correlation of 0.986, and 2.0 points off on average."""
    rates = [fit_length_control(wins_of(model), extra_length_of(model)).win_rate(None) for model in published]
    wanted = [model["length_controlled_winrate"] for model in published]
    assert spearmanr(rates, wanted).statistic >= 0.97
    assert np.abs(np.array(rates) - wanted).mean() < 2.5
    raw = [win_rate(wins_of(model)) for model in published]
    assert spearmanr(raw, wanted).statistic < 0.96, "the control has to order the models better than the raw rate"


def judged(model, wins):
    lengths, reference = (
        np.array([each[name] for each in model["annotations"]]) for name in ("len_model", "len_baseline")
    )
    orders = OrderCheck(np.zeros(0, dtype=bool), np.zeros(0), 0)
    return Judged(Verdicts(wins, np.zeros(len(wins), dtype=bool), {}, orders, 0), lengths, reference, None)


def test_a_judge_that_prefers_the_longer_answer_is_exposed_on_real_lengths(published):
    """By its note, and by a controlled rate near 50 % (measured: 42 to 55), also where 2 % of answers are longer."""
    raws = []
    for model in published:
        extra = extra_length_of(model)
        wins = np.where(extra > 0, 1.0, np.where(extra < 0, 0.0, 0.5))
        assert follows_length(judged(model, wins)), model["model"]
        assert not follows_length(judged(model, wins_of(model))), "no such thing is said of the published judge"
        raws.append(win_rate(wins))
        assert fit_length_control(wins, extra).win_rate(None) == pytest.approx(50, abs=10), model["model"]
    assert min(raws) < 3
    assert sum(raw < 20 for raw in raws) == 11


@pytest.mark.parametrize(("shift", "least"), [(700, 80), (-700, 80), (400, 65), (1300, 96), (-1300, 96)])
def test_a_judge_that_prefers_the_longer_answer_is_exposed_on_made_up_lengths(shift, least):
    for seed in range(3):
        extra = np.random.default_rng(seed).normal(shift, 700, 805).round()
        wins = np.where(extra > 0, 1.0, 0.0)
        assert max(win_rate(wins), 100 - win_rate(wins)) > least
        assert fit_length_control(wins, extra).win_rate(None) == pytest.approx(50, abs=10)


@pytest.mark.parametrize("limit", [3.0, LIMIT, 7.0])
def test_the_fit_lets_go_of_length_only_where_length_is_all(published, monkeypatch, limit):
    """The two regimes lie far apart: between the limits 3 and 7 no model changes its side."""
    monkeypatch.setattr(length_control, "LIMIT", limit)
    tastes = []
    for model in published:
        extra = extra_length_of(model)
        tastes.append(fit_length_control(wins_of(model), extra).phi)
        assert fit_length_control(np.where(extra > 0, 1.0, 0.0), extra).phi == pytest.approx(LARGEST)
    assert max(tastes) < LIMIT / 1.5
