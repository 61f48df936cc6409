"""Gains and costs along paths, the least cost of a gain, and methods at an equal gain, against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ropo.comparison.frontier.curves import Draws, best_gain, curves_of, least_cost, methods_of_paths
from ropo.comparison.frontier.equal_gain import SHARES, equal_gains
from ropo.comparison.frontier.lines import frame_of, lines_of
from ropo.comparison.frontier.quantities import best_point, series_of
from ropo.core.intervals import paired_difference
from tests.comparison.made_paths import BETA, answers, lost_path, run_path


def curve(*points: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    gains, costs = zip((0.0, 0.0), *points, strict=True)
    return np.array([gains]), np.array([costs])


def cost_at(level: float, *curves) -> float:
    return float(least_cost(curves, np.array([level]))[0])


def test_between_two_checkpoints_the_cost_is_interpolated():
    path = curve((1.0, 0.5), (2.0, 2.5))
    assert cost_at(0.5, path) == pytest.approx(0.25)  # half way to (1, 0.5)
    assert cost_at(1.0, path) == pytest.approx(0.5)
    assert cost_at(1.25, path) == pytest.approx(1.0)  # a quarter of the way from 0.5 to 2.5
    assert cost_at(2.0, path) == pytest.approx(2.5)


def test_the_cheapest_of_all_paths_counts_also_one_that_gains_more():
    cold, hot = curve((1.0, 0.5), (2.0, 2.5)), curve((3.0, 1.5))
    assert cost_at(1.0, cold, hot) == pytest.approx(0.5)  # the hot one pays 0.5 too, a third of 1.5
    assert cost_at(2.0, cold, hot) == pytest.approx(1.0)  # two thirds of 1.5
    assert cost_at(3.0, cold, hot) == pytest.approx(1.5)
    dear_first = curve((1.0, 2.0), (1.5, 0.2))  # later it gains more and costs less
    assert cost_at(0.6, dear_first) == pytest.approx(0.2)


def test_a_gain_that_comes_and_goes_is_read_on_its_way_up_and_down():
    path = curve((2.0, 1.0), (0.0, 3.0))
    assert cost_at(1.0, path) == pytest.approx(0.5)
    falling = curve((2.0, 4.0), (0.0, 0.0))  # the cost falls faster than the gain: the way down is as cheap
    assert cost_at(1.0, falling) == pytest.approx(2.0)


def test_what_no_path_reaches_has_no_cost():
    assert np.isnan(cost_at(1.5, curve((1.0, 0.5))))
    assert best_gain([curve((1.0, 0.5)), curve((-1.0, 0.1))])[0] == 1.0
    assert best_gain([curve((-1.0, 0.1))])[0] == 0.0  # the untrained model


def test_every_quantity_is_the_mean_that_it_says():
    before = answers(passed=[0.0, 1.0], tokens=[10, 20])
    after = answers(passed=[1.0, 1.0], tokens=[8, 30], kl=[0.4, 3.4])
    run = run_path("m", [([2.0, -4.0], [0.1, 0.4], after)], reference=before, tokens=[30, 10])

    def mean(name: str) -> float:
        series = series_of(run.path, name)
        assert series.steps == (0, 10)
        found = series.means(np.ones((1, 2)))[0]
        assert found[0] == (15.0 if name == "tokens" else 0.0)
        return float(found[1])

    margins = np.array([2.0, -4.0]) * BETA
    assert mean("margin") == pytest.approx(-0.5)
    assert mean("loss") == pytest.approx(np.log(2) - np.log1p(np.exp(-margins)).mean())
    assert mean("pass") == pytest.approx(0.5)
    assert mean("forgetting") == pytest.approx((30 * 0.1 + 10 * 0.4) / 40)  # windows by their tokens
    assert mean("kl") == pytest.approx(3.8 / 38)  # a token, not a mean of means
    assert mean("length") == pytest.approx(4.0)
    assert mean("chosen") == pytest.approx(-1.0)
    assert mean("rejected") == 0.0
    assert mean("tokens") == pytest.approx(19.0)


def test_checkpoints_that_sample_nothing_are_no_points_of_what_answers_tell():
    before, after = answers([0.0], [10]), answers([1.0], [10])
    run = run_path("m", [([1.0], [0.1], None), ([2.0], [0.2], after)], reference=before)
    assert series_of(run.path, "pass").steps == (0, 20)
    assert series_of(run.path, "loss").steps == (0, 10, 20)
    (method,) = methods_of_paths([run], "toy")
    gains, costs = curves_of(method, "pass", "forgetting", Draws(resamples=0))[1e-3]
    assert gains.tolist() == [[0.0, 1.0]]
    assert costs[0] == pytest.approx([0.0, 0.2])
    silent = run_path("m", [([1.0], [0.1], None)])
    assert series_of(silent.path, "kl") is None


def test_seeds_are_averaged_point_by_point():
    runs = [
        run_path("m", [([gain], [cost], None)], seed=seed) for seed, (gain, cost) in enumerate(((2, 0.2), (4, 0.6)))
    ]
    (method,) = methods_of_paths(runs, "toy")
    gains, costs = curves_of(method, "margin", "forgetting", Draws(resamples=0))[1e-3]
    assert gains[0] == pytest.approx([0.0, 3 * BETA])
    assert costs[0] == pytest.approx([0.0, 0.4])
    drawn = curves_of(method, "margin", "forgetting", Draws(resamples=400))[1e-3][1][1:, 1]
    assert set(np.round(drawn, 6)) == {0.2, 0.4, 0.6}  # both seeds, or one of them twice
    assert np.mean(np.isclose(drawn, 0.4)) == pytest.approx(0.5, abs=0.1)


def test_a_seed_that_ended_early_is_averaged_where_it_was():
    """`stop_at_kl` and warnings end a seed before the others, or between two of their checkpoints."""
    gains = [([1.0], [0.1], None), ([2.0], [0.2], None), ([3.0], [0.4], None)]
    whole, short = run_path("m", gains, seed=0), run_path("m", [([3.0], [0.3], None), ([4.0], [0.6], None)], seed=1)
    between = run_path("m", gains, seed=1)
    between.path.points[2] = between.path.points[2].model_copy(update={"step": 25})
    for other, level in ((short, 3.0), (between, 2.0)):
        (method,) = methods_of_paths([whole, other], "toy")
        ((gain, cost),) = curves_of(method, "margin", "forgetting", Draws(resamples=1)).values()
        assert gain.shape == cost.shape == (2, 3)
        assert float(gain[0, 2]) == pytest.approx(BETA * level)
        drawn = {line.seed: line.steps for line in lines_of(method, "margin", "forgetting").lines}
        assert drawn[0] == (0, 10, 20, 30)
        assert drawn[None] == (0, 10, 20)
    found = equal_gains([whole, short, run_path("other", gains)], None, Draws(resamples=20))
    assert [each.level for each in found if (each.gain, each.share) == ("margin", 1.0)] == [pytest.approx(1.5)]


def test_the_interval_is_the_bootstrap_over_windows():
    """With two windows a resample has one of them twice with probability 1/4 each, so the ends are the windows."""
    cheap = run_path("cheap", [([2.0, 2.0], [0.1, 0.3], None)])
    dear = run_path("dear", [([2.0, 2.0], [0.5, 1.5], None)])
    found = {(each.gain, each.cost, each.share): each for each in equal_gains([cheap, dear], "dear")}
    whole = found["margin", "forgetting", 1.0]
    assert (whole.method, whole.against, whole.level) == ("cheap", "dear", pytest.approx(2 * BETA))
    assert (whole.value.value, whole.value.low, whole.value.high) == pytest.approx((0.2, 0.1, 0.3))
    assert (whole.other.value, whole.other.low, whole.other.high) == pytest.approx((1.0, 0.5, 1.5))
    difference = whole.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((-0.8, -1.2, -0.4))
    half = found["margin", "forgetting", 0.5]
    assert half.value.value == pytest.approx(0.1)
    assert half.level == pytest.approx(BETA)
    assert whole.units == {"pairs": 2, "windows": 2}
    assert whole.seeds == (1, 1)
    assert whole.draws == (2000, 2000)
    assert {each.share for each in found.values()} == set(SHARES)
    assert {each.cost for each in found.values()} == {"forgetting"}  # nothing was sampled


def test_the_same_windows_are_drawn_for_both_methods():
    """Windows differ widely and alike for both: a difference that is the same on each has no width when paired."""
    rises = np.random.default_rng(0).normal(0.5, 0.3, size=40)
    pairs = [1.0] * 8
    one = run_path("one", [(pairs, list(rises), None)])
    other = run_path("other", [(pairs, list(rises + 0.01), None)])
    found = next(each for each in equal_gains([one, other], "other") if (each.gain, each.share) == ("loss", 1.0))
    width = found.value.high - found.value.low
    assert width > 0.1
    assert found.difference.high - found.difference.low < 1e-9
    assert found.difference.value == pytest.approx(-0.01)
    shuffled = run_path("other", [(pairs, list(rises[::-1] + 0.01), None)])
    apart = next(each for each in equal_gains([one, shuffled], "other") if (each.gain, each.share) == ("loss", 1.0))
    assert apart.difference.high - apart.difference.low > width


def test_the_interval_agrees_with_the_paired_bootstrap_of_the_library():
    draw = np.random.default_rng(1)
    rises, others = draw.normal(0.1, 0.05, size=30), draw.normal(0.2, 0.05, size=30)
    runs = [run_path(name, [([1.0], list(values), None)]) for name, values in (("a", rises), ("b", others))]
    found = next(each for each in equal_gains(runs, "b", Draws(10_000)) if (each.gain, each.share) == ("margin", 1.0))
    known = paired_difference(rises, others)
    assert found.difference.value == pytest.approx(known.value)
    assert found.difference.low == pytest.approx(known.low, abs=2e-3)  # 10,000 draws of either
    assert found.difference.high == pytest.approx(known.high, abs=2e-3)


def test_the_level_is_what_both_reach_and_a_rate_that_lost_a_seed_is_left_out():
    weak = run_path("weak", [([2.0], [0.4], None)])
    strong = [run_path("strong", [([4.0], [0.4], None)]), lost_path("strong", rate=2e-3)]
    method = methods_of_paths([weak, *strong], "toy")[1]
    assert (list(method.rates), method.lost) == ([1e-3], (2e-3,))
    found = next(e for e in equal_gains([*strong, weak], "strong") if (e.gain, e.share) == ("margin", 1.0))
    assert found.level == pytest.approx(2 * BETA)
    assert (found.value.value, found.other.value) == pytest.approx((0.4, 0.2))
    halved = [run_path("a", [([1.0], [0.1], None)], seed=0), lost_path("a", seed=1)]
    assert methods_of_paths(halved, "toy")[0].rates == {}
    assert equal_gains([*halved, weak], "weak") == []


def test_where_nothing_is_gained_nothing_is_compared():
    worse = run_path("worse", [([-1.0], [0.4], None)])
    fine = run_path("fine", [([1.0], [0.4], None)])
    assert equal_gains([worse, fine], "fine") == []


def test_lines_and_bands_of_a_figure():
    runs = [
        run_path("m", [([gain], [cost], None)], seed=seed) for seed, (gain, cost) in enumerate(((2, 0.2), (4, 0.8)))
    ]
    drawn = lines_of(methods_of_paths(runs, "toy")[0], "margin", "forgetting")
    assert [(line.seed, line.steps) for line in drawn.lines] == [(0, (0, 10)), (1, (0, 10)), (None, (0, 10))]
    envelope = drawn.envelope
    assert envelope.gains[-1] == pytest.approx(3 * BETA)
    assert envelope.costs[-1] == pytest.approx(0.5)
    gain, low, high = envelope.band[-1]
    assert gain == pytest.approx(2 * BETA, rel=0.05)  # as far as both seeds reach
    assert (low, high) == pytest.approx((0.1 * gain / BETA, 0.2 * gain / BETA))
    broken = run_path("m", [([2.0], [0.2], None), ([-40.0], [9.0], None)])
    frame = frame_of([lines_of(methods_of_paths([broken], "toy")[0], "margin", "forgetting")])
    assert -0.5 < frame[0][0] < 0  # not as far as the run fell
    assert frame[1][1] < 1
    still = lines_of(methods_of_paths([run_path("m", [([0.0], [0.0], None)])], "toy")[0], "margin", "forgetting")
    assert frame_of([still]) == ((-1.0, 1.0), (-1.0, 1.0))


def test_a_run_is_shown_where_its_pass_rate_was_best_or_else_its_loss_lowest():
    before = answers([0, 0], [4, 4])
    points = [
        ([1.0, 1.0], [0.1], answers([1, 1], [6, 8], [0.2, 0.4])),
        ([2.0, 2.0], [0.3], answers([1, 0], [9, 9], [0.5, 0.5])),
    ]
    step, found = best_point(run_path("A", points, reference=before).path)
    assert step == 10
    assert found["pass"] == 1
    assert found["length"] == 3
    assert found["kl"] == pytest.approx((0.2 + 0.4) / 14)
    assert found["forgetting"] == pytest.approx(0.1)
    step, found = best_point(run_path("A", [(chosen, text, None) for chosen, text, _ in points]).path)
    assert step == 20
    assert "pass" not in found
    assert found["margin"] == pytest.approx(BETA * 2)
