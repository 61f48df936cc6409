"""Win rates against the published ones of AlpacaEval 2, from its own verdicts."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from ropo.evaluation.alpaca_eval.formats import prompts_of, read_difficulties
from ropo.evaluation.alpaca_eval.metrics import Judged, Verdicts, follows_length, notes_on
from ropo.evaluation.alpaca_eval.win_rates import NO_VERDICT, PUBLISHED, standard_error, win_rate
from ropo.judging.judge import OrderCheck

DERIVATION = Path(__file__).parents[3] / "experiments" / "length_control" / "prior.py"


@pytest.fixture(scope="module")
def published(shared_data):
    with gzip.open(shared_data / "reference" / "alpaca_eval_2.json.gz") as file:
        models = json.load(file)
    assert len(models) == 12
    assert all(len(model["annotations"]) == 805 for model in models)
    return models


@pytest.fixture(scope="module")
def data(shared_data):
    """Return what the derivation of the prior reads."""
    found = runpy.run_path(str(DERIVATION))["read"](shared_data / "reference")
    assert len(found.models) == 12
    return found


def wins_of(model):
    given = [annotation["preference"] for annotation in model["annotations"]]
    return np.array([preference - 1 if preference else NO_VERDICT for preference in given])


def test_win_rates_and_standard_errors_are_the_published_ones(published):
    for model in published:
        wins = wins_of(model)
        assert win_rate(wins) == pytest.approx(model["win_rate"], abs=1e-4), model["model"]
        assert standard_error(wins) == pytest.approx(model["standard_error"], abs=1e-4), model["model"]


def test_the_prior_is_that_of_the_published_coefficients(data):
    chosen = {known: data.choose(known) for known in (True, False)}
    assert chosen == {True: PUBLISHED.strength, False: PUBLISHED.strength_alone}
    derived = data.prior(chosen[True], chosen[False])
    assert PUBLISHED.mean == pytest.approx(derived.mean, abs=6e-4)  # committed to three digits
    assert np.array(PUBLISHED.covariance) == pytest.approx(np.array(derived.covariance), abs=6e-5)
    assert PUBLISHED.spread == pytest.approx(derived.spread, abs=2e-3)


@pytest.mark.parametrize(("known", "mean", "most", "order"), [(True, 1.0, 3.5, 0.98), (False, 1.6, 5.0, 0.97)])
def test_length_controlled_rates_are_the_published_ones(data, known, mean, most, order):
    """Each model is left out of the prior. Measured: 0.34, 0.83 and 0.986 points; 1.16, 3.39 and 0.979 without."""
    errors = data.errors(PUBLISHED.strength if known else PUBLISHED.strength_alone, known)
    wanted = np.array([model.published for model in data.models])
    assert np.abs(errors).mean() <= mean
    assert np.abs(errors).max() <= most
    assert spearmanr(wanted + errors, wanted).statistic >= order
    raw = [win_rate(model.wins) for model in data.models]
    assert spearmanr(raw, wanted).statistic < 0.96, "the control has to order the models better than the raw rate"


@pytest.mark.parametrize("known", [True, False])
def test_a_gamed_judge_is_not_fooled_by_brevity(data, known):
    """`gpt4_gamed` has 68 characters an answer, 3.7 raw and 12.2 published; it chose no constant."""
    assert data.gamed.published == pytest.approx(12.19, abs=0.01)
    assert abs(data.gamed.error(PUBLISHED, known)) <= 3.0


def test_no_model_of_the_prior_decides_its_own_rate(data):
    """Leaving one out of 164 moves its rate by less than 0.2 points."""
    everyone = data.prior(PUBLISHED.strength, PUBLISHED.strength_alone)
    for known in (True, False):
        left_out = data.errors(PUBLISHED.strength if known else PUBLISHED.strength_alone, known)
        kept = np.array([model.error(everyone, known) for model in data.models])
        assert np.abs(left_out - kept).min() > 0, "each is left out indeed"
        assert np.abs(left_out - kept).max() < 0.2


def judged(model, wins):
    lengths, reference = (
        np.array([each[name] for each in model["annotations"]]) for name in ("len_model", "len_baseline")
    )
    orders = OrderCheck(np.zeros(0, dtype=bool), np.zeros(0), 0)
    return Judged(Verdicts(wins, np.zeros(len(wins), dtype=bool), {}, orders, 0), lengths, reference, None)


def test_a_judge_that_prefers_the_longer_answer_is_exposed_by_its_note(published):
    """On real lengths, also where 2 % of answers are longer. Its controlled rate says nothing, low or high."""
    for model in published:
        case = judged(model, wins_of(model))
        assert not follows_length(case), "no such thing is said of the published judge"
        extra = case.extra
        case = judged(model, np.where(extra > 0, 1.0, np.where(extra < 0, 0.0, 0.5)))
        assert follows_length(case), model["model"]
        assert sum("prefers the longer output almost always" in note for note in notes_on({"m": case}, "r")) == 1


def test_published_difficulties_are_found_by_hash(shared_data, published):
    lines = (shared_data / "prompts" / "alpaca_eval.jsonl").read_text().splitlines()
    prompts = prompts_of([json.loads(line) for line in lines])[::-1]
    path = shared_data / "reference" / "alpaca_eval_2_difficulty.json"
    found = read_difficulties(path, prompts, [])
    known = json.loads(path.read_text())
    by_order = [known[each["instruction_sha"]] for each in published[0]["annotations"]]
    assert sorted(found) == sorted(by_order)
    assert len(set(found)) > 700
    assert known["f0aa9c85c9cd"] == found[-1], "the file of prompts and the annotations begin with the same instruction"
