"""Ratios, ranks and simulated means over several tasks, against formulas and against pools whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from fallline.lab.analysis.several_tasks import (
    TaskMeans,
    by_group,
    draw_means,
    estimate,
    geometric_mean,
    is_best,
    ranks,
    ratios_to_best,
    shrink,
    within,
)
from fallline.lab.report.survey.profile import profile


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_profile_equals_dolan_and_more_by_hand():
    # three tasks, arms a, b, c: losses (1, 2, 4), (2, 2, 2), (3, failed, 3)
    tasks = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, np.nan], [4.0, 2.0, 3.0]])
    found = ratios_to_best(tasks, "min")
    assert found.T.tolist() == [[1, 1, 2], [2, 1, 1], [3, math.inf, 1.5]]
    assert profile(found.T[0]) == [(1.0, 2 / 3), (2.0, 1.0)]
    assert profile(found.T[2]) == [(1.0, 0.0), (1.5, 1 / 3), (3.0, 2 / 3)]  # never 1: it failed on a task


def test_ratios_of_what_should_be_high_are_inverted():
    assert ratios_to_best(np.array([0.9, 0.6, 0.0]), "max").tolist() == pytest.approx([1.0, 1.5, math.inf])
    assert ratios_to_best(np.array([0.0, 0.1]), "min").tolist() == [1.0, math.inf]
    assert ratios_to_best(np.array([np.nan, np.nan]), "min").tolist() == [math.inf, math.inf]


def test_ranks_are_those_of_scipy():
    values = rng().integers(1, 5, (50, 6)).astype(float)
    values[:, 0] = math.inf
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=1))


def test_the_interval_of_a_drawn_difference_is_that_of_the_paired_t_test():
    values = rng().normal(size=(3, 5)) + rng(1).normal(size=5)
    drawn = draw_means(values, 400_000, rng(2))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        low, high = np.quantile(drawn[:, i] - drawn[:, j], [0.025, 0.975])
        right = stats.ttest_rel(values[i], values[j]).confidence_interval()
        assert (low, high) == pytest.approx((right.low, right.high), abs=0.02 * (right.high - right.low))
    wide = draw_means(values, 400_000, rng(2), spread=2.0)
    np.testing.assert_allclose(wide - values.mean(1), 2 * (drawn - values.mean(1)), atol=1e-9)


def test_the_best_arm_of_every_draw_counts_once_and_groups_divide_the_tasks():
    drawn = ratios_to_best(np.exp(rng().normal(size=(1000, 4))), "min")
    np.testing.assert_allclose(is_best(drawn).sum(1), 1)
    assert is_best(np.array([1.0, 1.0, 2.0])).tolist() == [0.5, 0.5, 0.0]
    assert within(1.1)(np.array([1.0, 1.1, 1.2, math.inf])).tolist() == [1, 1, 0, 0]
    tasks = [TaskMeans(drawn[i], drawn, drawn) for i in range(3)]
    assert by_group(["a", "b", "a"], tasks) == {"a": [tasks[0], tasks[2]], "b": [tasks[1]]}
    assert geometric_mean([1.0, 4.0]) == 2.0 and math.isnan(geometric_mean([]))


def simulated(truth, seeds, generator):
    """A survey of tasks whose true mean log losses are known, with an effect of the seed that the arms share."""
    tasks = []
    for means in truth:
        values = means[:, None] + 0.1 * generator.normal(size=seeds) + 0.1 * generator.normal(size=(len(means), seeds))
        drawn = draw_means(values, 400, generator)
        parts = (values.mean(1), drawn, shrink(drawn, values))
        tasks.append(TaskMeans(*(ratios_to_best(np.exp(part), "min") for part in parts)))
    return tasks


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "least_rank"), [(0.001, 0.79), (0.03, 0.89), (0.1, 0.94), (0.3, 0.94)])
def test_intervals_of_ranks_and_shares_cover_the_truth(gap, least_rank):
    """The standard deviation of the true means over arms is the gap; that of the observed means around them is 0.06."""
    generator = rng(5)
    hits = {"rank": [], "within 10 %": [], "wins": []}
    for _ in range(120):
        truth = gap * generator.normal(size=(8, 6))
        exact = ratios_to_best(np.exp(truth), "min")
        tasks = simulated(truth, 5, generator)
        for name, statistic in (("rank", ranks), ("within 10 %", within(1.1)), ("wins", is_best)):
            right = statistic(exact).mean(0)
            found = estimate(tasks, statistic)
            hits[name] += [e.low - 1e-9 <= value <= e.high + 1e-9 for e, value in zip(found, right, strict=True)]
    least = {"rank": least_rank, "within 10 %": 0.9, "wins": 0.9}
    covered = {name: np.mean(found) for name, found in hits.items()}
    assert all(covered[name] >= least[name] for name in hits), covered


def test_shrunk_means_vary_as_the_true_ones():
    """Means that differ by noise alone are shrunk to almost nothing, means far apart hardly at all."""
    noise = 0.1 * rng().normal(size=(200, 5))
    for gap in (0.0, 0.05, 5.0):
        truth = gap * rng(1).normal(size=200)
        values = truth[:, None] + noise
        centre = shrink(draw_means(values, 2000, rng(2)), values).mean(0)
        assert centre.std() == pytest.approx(truth.std() ** 2 / math.hypot(truth.std(), 0.1 / math.sqrt(5)), abs=0.02)
        assert values.mean(1).std() > centre.std()
    with_failure = np.full((2, 3), 1.0)  # no variation at all
    assert np.isfinite(shrink(draw_means(with_failure, 10, rng()), with_failure)).all()
