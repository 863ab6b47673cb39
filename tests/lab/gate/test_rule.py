"""The test of a series of pairs: when it stops, what it concludes, and when it counts noise as shared."""

import numpy as np
import pytest
from scipy import stats

from fallline.lab.gate.rule import Rule, is_shared, measure_correlation, run_test


def draws(seed, *size):
    return np.random.default_rng(seed).standard_normal(size)


def test_the_p_values_are_those_of_scipy():
    x, y = draws(1, 2, 12)
    y = 1.5 * y - 0.4
    assert run_test(x, y, 0.1, False).p == pytest.approx(
        stats.ttest_ind(x - 0.1, y, equal_var=False, alternative="greater").pvalue
    )
    assert run_test(x, y, 0.1, True).p == pytest.approx(stats.ttest_rel(x - 0.1, y, alternative="greater").pvalue)


def test_a_stack_of_series_gives_the_same_as_each_alone():
    x, y = draws(2, 2, 5, 8)
    for paired in (False, True):
        together = run_test(x, y, 0.0, paired)
        assert together.p == pytest.approx([run_test(x[i], y[i], 0.0, paired).p for i in range(5)], rel=1e-12)


def test_a_difference_without_noise_is_certain():
    x = draws(3, 8).round(2)
    assert run_test(x, x - 0.5, 0.1, True).p < 1e-9
    assert run_test(np.zeros(4), np.full(4, -1.0), 0.5, False).p == 0
    assert run_test(np.zeros(4), np.full(4, -1.0), 1.0, False).p == 1


@pytest.mark.parametrize(
    ("gain", "n", "stop"),
    [(8.0, 4, "success"), (-1.0, 4, "futility"), (-0.2, 4, ""), (-0.2, 8, "futility"), (0.3, 8, ""), (0.3, 32, "end")],
)
def test_a_series_stops_for_success_futility_or_its_end(gain, n, stop):
    x, y = draws(4, 2, n)
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    assert Rule(0.025, 32).look(x, y - gain).stop == stop


def test_equal_values_stop_at_once():
    x = draws(5, 4)
    look = Rule(0.025, 32).look(x, x)
    assert (look.stop, look.gain) == ("identical", 0.0)


def test_the_interval_excludes_the_margin_exactly_when_the_change_is_kept():
    x, y = draws(6, 2, 4)
    for gain in np.linspace(0, 10, 41):
        look = Rule(0.025, 32, margin=0.5).look(x, y - gain)
        assert (look.low > 0.5) == (look.stop == "success")
        assert look.low <= look.gain <= look.high


def test_the_margin_shifts_the_test():
    x, y = draws(7, 2, 8)
    assert Rule(0.025, 32, 0.3).look(x, y).p == pytest.approx(Rule(0.025, 32).look(x, y + 0.3).p)
    shift = Rule(0.025, 32, 0.3).look(x, y).detectable - Rule(0.025, 32).look(x, y).detectable
    assert shift == pytest.approx(0.3)


def test_the_smallest_improvement_is_found_with_80_percent_power():
    rule = Rule(0.025, 16)
    smallest = rule.detect(16, np.sqrt(2 / 16), 30)
    x, y = draws(8, 2, 4000, 16)
    kept = np.zeros(4000, bool)
    alive = np.ones(4000, bool)
    for n, nominal in zip(rule.looks, rule.nominal, strict=True):
        p = run_test(x[:, :n], y[:, :n] - smallest, 0.0, False).p
        kept |= alive & (p < nominal)
        alive &= (p >= nominal) & (p < rule.hopeless(n))
    assert 0.75 < kept.mean() < 0.83  # 4000 series: SE 0.006


def correlated(r, n, seed=9):
    common, x, y = draws(seed, 3, n)
    return list(np.sqrt(r) * common + np.sqrt(1 - r) * x), list(np.sqrt(r) * common + np.sqrt(1 - r) * y)


def test_noise_counts_as_independent_until_it_is_measured():
    assert not is_shared([])
    assert not is_shared([correlated(0.95, 4)])  # four pairs are too few
    assert not is_shared([correlated(0.0, 16)])
    assert is_shared([correlated(0.95, 16)])


def test_differences_between_proposals_are_no_correlation():
    shifted = [tuple([v + 100 * i for v in arm] for arm in correlated(0.0, 8, seed=20 + i)) for i in range(4)]
    assert not is_shared(shifted)
    whole = tuple([v for arms in shifted for v in arms[i]] for i in (0, 1))
    assert measure_correlation([whole])[0] > 0.99


def test_a_change_without_effect_says_nothing_about_the_noise():
    x = list(draws(10, 32))
    assert not is_shared([(x, x)])
    assert measure_correlation([(x, x)]) == (0.0, -1)
