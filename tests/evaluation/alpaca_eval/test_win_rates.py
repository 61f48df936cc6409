"""The raw rate of lists and arrays; the length-controlled one against known truths and another library's minimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from ropo.evaluation import alpaca_eval
from ropo.evaluation.alpaca_eval import standard_error, win_rate, win_rates
from ropo.evaluation.alpaca_eval.win_rates import FREE, PUBLISHED, Prior, fit_length_control

COUNT = 20_000


def simulated(theta, phi, shift, psi=0.0, count=COUNT):
    random = np.random.default_rng(0)
    extra = random.normal(shift, 500, count)
    difficulty = random.normal(0, 1, count)
    wins = expit(theta + phi * np.tanh(extra / extra.std(ddof=1)) + psi * difficulty)
    return wins, extra, difficulty


@pytest.mark.parametrize("made", [list, tuple, np.array])
def test_any_sequence_of_preferences(made):
    wins = made([1.0, 0.0, 0.5, 1.0])
    assert win_rate(wins) == 62.5
    assert standard_error(wins) == pytest.approx(100 * np.std([1, 0, 0.5, 1], ddof=1) / 2)
    assert standard_error(made([1.0])) is None


@pytest.mark.parametrize("shift", [-400, 0, 400])
@pytest.mark.parametrize("theta", [-1.0, 0.0, 0.7])
def test_the_truth_is_found_whatever_the_lengths(theta, shift):
    wins, extra, _ = simulated(theta, 1.5, shift)
    fitted = fit_length_control(wins, extra)
    assert fitted.phi == pytest.approx(1.5, abs=0.15)  # the prior pulls it a little
    assert fitted.win_rate(None) == pytest.approx(100 * expit(theta), abs=1)


def test_equal_outputs_have_half():
    assert fit_length_control(np.full(50, 0.5), np.zeros(50)).win_rate(None) == pytest.approx(50, abs=1e-3)


def test_one_verdict_is_no_reason_for_a_warning():
    fitted = fit_length_control(np.ones(1), np.full(1, 30.0), np.zeros(1))
    assert fitted.scale == 0.0
    assert fitted.win_rate(np.zeros(1)) > 95


def test_swapping_the_models_mirrors_the_rate():
    wins, extra, difficulty = simulated(0.4, 1.0, 200, psi=0.5, count=300)
    one = fit_length_control(wins, extra).win_rate(None)
    other = fit_length_control(1 - wins, -extra).win_rate(None)
    assert one + other == pytest.approx(100, abs=1e-4)
    assert one > 55
    one = fit_length_control(wins, extra, difficulty).win_rate(difficulty)
    other = fit_length_control(1 - wins, -extra, -difficulty).win_rate(-difficulty)
    assert one + other == pytest.approx(100, abs=1e-4)


def test_a_judge_that_prefers_short_answers_gets_a_negative_weight():
    wins, extra, _ = simulated(0.0, -2.0, 300)
    assert fit_length_control(wins, extra).phi == pytest.approx(-2.0, abs=0.2)


@pytest.mark.parametrize("unit", [1.0, -1.0, 1e4])
def test_difficulties_are_used_where_known(unit):
    """Whatever their scale and direction, once there are verdicts enough."""
    wins, extra, difficulty = simulated(-0.5, 1.0, 300, psi=2.0)
    fitted = fit_length_control(wins, extra, unit * difficulty)
    assert fitted.psi * unit == pytest.approx(2.0, abs=0.1)
    wanted = 100 * expit(-0.5 + 2.0 * difficulty).mean()
    assert fitted.win_rate(unit * difficulty) == pytest.approx(wanted, abs=1)
    assert fit_length_control(wins, extra).psi is None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("theta", [-6.0, -0.8, 2.0])
def test_the_fit_is_the_minimum_that_scipy_finds(theta, known):
    wins, extra, difficulty = simulated(theta, 1.2, -300, psi=0.7, count=400)
    columns = [np.ones(400), np.tanh(extra / extra.std(ddof=1)), *([difficulty] if known else [])]
    features = np.column_stack(columns)
    mean, precision = PUBLISHED.with_difficulties() if known else PUBLISHED.without_difficulties()

    def loss(b):
        logits = features @ b
        return np.logaddexp(0, logits).sum() - wins @ logits + (b - mean) @ precision @ (b - mean) / 2

    wanted = minimize(loss, np.zeros(len(mean)), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    fitted = fit_length_control(wins, extra, difficulty if known else None)
    found = [fitted.theta, fitted.phi, *([fitted.psi] if known else [])]
    assert found == pytest.approx(list(wanted), abs=1e-5)  # Nelder-Mead knows the loss to 1e-13 of some 200 nats


def test_without_verdicts_that_vary_the_prior_decides():
    wins, extra = np.full(4, 0.5), np.array([-1.0, 1.0, -1.0, 1.0])
    firm = PUBLISHED._replace(strength=1e6, strength_alone=1e6)
    known = fit_length_control(wins, extra, np.array([1.0, 1.0, -1.0, -1.0]), prior=firm)
    assert (known.phi, known.psi) == pytest.approx(PUBLISHED.mean, abs=1e-3)
    alone = fit_length_control(wins, extra, prior=firm)
    assert alone.phi == pytest.approx(PUBLISHED.without_difficulties()[0][1], abs=1e-3)


def test_what_is_left_out_flattens_the_rest():
    """The prior without difficulties expects what a fit without them finds where there are some."""
    random = np.random.default_rng(0)
    extra = random.normal(0, 500, COUNT)
    phi, psi = PUBLISHED.mean
    wins = expit(phi * np.tanh(extra / extra.std(ddof=1)) + psi * random.normal(0, PUBLISHED.spread, COUNT))
    loose = PUBLISHED._replace(strength_alone=FREE)
    found = fit_length_control(wins, extra, prior=loose).phi
    assert found == pytest.approx(PUBLISHED.without_difficulties()[0][1], abs=0.05)
    assert found < phi - 0.25


def test_strength_is_how_many_times_the_precision_counts():
    prior = Prior((1.0, 0.5), ((0.5, 0.0), (0.0, 0.25)), 3.0, 0.0, 7.0)
    mean, precision = prior.with_difficulties()
    assert (mean.tolist(), np.diag(precision).tolist()) == ([0.0, 1.0, 0.5], [FREE, 6.0, 12.0])
    mean, precision = prior.without_difficulties()
    assert (mean.tolist(), np.diag(precision).tolist()) == ([0.0, 1.0], [FREE, 14.0])


@pytest.mark.parametrize("win", [0.0, 1.0])
@pytest.mark.parametrize("count", [30, 100_000])
def test_all_wins_or_none_stay_finite(win, count):
    fitted = fit_length_control(np.full(count, win), np.arange(float(count)))
    assert fitted.win_rate(None) == pytest.approx(100 * win, abs=0.1)


@pytest.mark.parametrize("known", [True, False])
def test_brevity_is_not_rewarded(known):
    """Answers that lose however short they are do not win by becoming shorter, whoever judges them."""
    random = np.random.default_rng(0)
    reference = random.gamma(2.0, 1000.0, 805).round()
    difficulties = random.normal(0, PUBLISHED.spread, 805) if known else None
    wins = np.zeros(805)
    rates = [
        fit_length_control(wins, length - reference, difficulties).win_rate(difficulties) for length in (5e3, 1e3, 60.0)
    ]
    assert max(rates) < 0.1
    wins[np.argsort(reference)[:32]] = 1.0  # where the reference is short too: length tells all verdicts
    short = fit_length_control(wins, 60.0 - reference, difficulties).win_rate(difficulties)
    assert alpaca_eval.win_rate(wins) == pytest.approx(4.0, abs=0.1)
    assert short < 25  # with phi free, or let go, it is near 100


def test_the_public_names_are_functions():
    assert win_rate is win_rates.win_rate
    assert alpaca_eval.fit_length_control is fit_length_control
    assert alpaca_eval.standard_error(np.array([0.0, 1.0])) == pytest.approx(50.0)
    with pytest.raises(AttributeError, match="has no attribute 'no_such'"):
        alpaca_eval.no_such  # noqa: B018
