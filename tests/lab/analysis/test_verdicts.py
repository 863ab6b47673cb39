"""What a comparison rests on and comes to: each case is one that a slightly wrong rule would judge otherwise."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from fallline.lab.analysis.statistics import compare
from fallline.lab.analysis.verdicts import Verdict, compare_all

BASE = [1.0, 1.1, 0.9, 1.2, 1.05, 0.95]


def times(*exponents):
    """Return the baseline's losses changed by these log ratios."""
    return [b * math.exp(x) for b, x in zip(BASE, exponents, strict=True)]


def test_superiority_is_the_share_of_seeds_won_whichever_way_is_better():
    arm, baseline = [2.0, 3.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]  # higher twice, equal once, lower once
    assert compare(arm, baseline, log_ratio=False, mode="max").superiority == (2 + 0.5) / 4
    assert compare(arm, baseline, log_ratio=False, mode="min").superiority == (1 + 0.5) / 4


def test_only_differences_that_are_all_zero_are_identical():
    same = compare(BASE, BASE, log_ratio=True)
    assert same.identical and same.p == 1.0 and same.low == same.high == 0.0
    balanced = {"base": [1.0, 2.0, 3.0, 4.0], "arm": [2.0, 1.0, 5.0, 2.0]}  # differences 1, −1, 2, −2: their mean is 0
    result = compare_all(balanced, "base", log_ratio=False)["arm"]
    assert result.comparison.difference == 0 and not result.comparison.identical
    assert result.verdict is Verdict.NOT_DISTINGUISHABLE


@pytest.mark.parametrize("n", [8, 20])
def test_the_sign_flip_p_of_differences_of_one_sign_is_two_in_all_patterns(n):
    assert compare([2.0] * n, [1.0] * n, log_ratio=False).sign_flip_p == 2 / 2**n


def test_the_sign_flip_p_is_left_out_where_it_says_nothing_or_takes_too_long():
    assert [compare([2.0] * n, [1.0] * n, log_ratio=False).sign_flip_p for n in (7, 21)] == [None, None]


def test_a_margin_is_relative_on_both_sides():
    # ln 0.9 is −0.105 and ln 1.1 is 0.095: a fall by 9.5 % lies within 10 %, a rise by 10.5 % does not
    jitter = (1e-5, -1e-5, 2e-5, -2e-5, 0.0, 1e-5)
    values = {"base": BASE, "fell": times(*(x - 0.1 for x in jitter)), "rose": times(*(x + 0.1 for x in jitter))}
    results = compare_all(values, "base", log_ratio=True, margin=0.1)
    assert {name: r.verdict for name, r in results.items()} == {"fell": Verdict.EQUIVALENT, "rose": Verdict.WORSE}


def test_equivalent_is_the_interval_not_the_mean_within_the_margin():
    spread = (0.05, -0.05, 0.05, -0.05, 0.05, -0.05)  # 0.055 about 0: the interval reaches 0.057
    half = stats.t.ppf(0.975, 5) * np.std(spread, ddof=1) / math.sqrt(6)
    assert math.log(1.05) < half < -math.log(0.93)
    values = {"base": BASE, "arm": times(*spread)}
    verdicts = [compare_all(values, "base", log_ratio=True, margin=m)["arm"].verdict for m in (0.05, 0.07)]
    assert verdicts == [Verdict.NOT_DISTINGUISHABLE, Verdict.EQUIVALENT]


def test_every_comparison_says_holms_p_and_what_it_could_have_detected():
    shifts = {
        "a": (0.03, 0.01, 0.05, 0.02, 0.04, 0.00),
        "b": (0.02, 0.05, -0.01, 0.03, 0.0, 0.04),
        "c": (-0.02, 0.03, 0.01, -0.01, 0.02, -0.03),
    }
    results = compare_all({"base": BASE, **{k: times(*v) for k, v in shifts.items()}}, "base", log_ratio=True)
    raw = {name: stats.ttest_1samp(x, 0).pvalue for name, x in shifts.items()}
    assert raw["a"] < raw["b"] < raw["c"]
    expected = {"a": 3 * raw["a"]}
    expected["b"] = max(expected["a"], 2 * raw["b"])
    expected["c"] = max(expected["b"], raw["c"])
    assert {name: r.p for name, r in results.items()} == pytest.approx(expected, rel=1e-9)
    for name, result in results.items():
        error = np.std(shifts[name], ddof=1) / math.sqrt(6)
        detectable = (stats.t.ppf(1 - 0.05 / 3 / 2, 5) + stats.t.ppf(0.8, 5)) * error  # three share the 5 %
        assert result.comparison.detectable == pytest.approx(detectable, rel=1e-9)
        said = re.search(r"corrected p = ([\d.]+), n = 6", result.sentence)
        assert said is not None and float(said[1]) == pytest.approx(expected[name], abs=5e-4)
        if result.verdict is Verdict.NOT_DISTINGUISHABLE:
            told = f"a difference of {100 * math.expm1(detectable):.1f} % would have been detected"
            assert told in result.sentence
    assert results["c"].verdict is Verdict.NOT_DISTINGUISHABLE


def test_a_p_value_is_told_by_its_number_down_to_a_thousandth():
    shift = np.array([0.03, 0.02, 0.05, 0.03, 0.04, 0.015])
    p = stats.ttest_1samp(shift, 0).pvalue
    assert 0.001 < p < 0.01
    assert f"p = {p:.3f}" in compare_all({"base": BASE, "arm": times(*shift)}, "base", log_ratio=True)["arm"].sentence
