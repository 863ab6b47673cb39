"""Intervals, p-values and verdicts, against scipy, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fallline.errors import ArgumentError
from fallline.lab.analysis.statistics import compare, holm, summarize
from fallline.lab.analysis.verdicts import Verdict, compare_all, ranks

LOSSES = st.lists(st.floats(0.01, 10), min_size=3, max_size=9)


def pairs(seed, n, ratio=1.0, spread=0.1):
    generator = np.random.default_rng(seed)
    common = generator.normal(0, 0.3, n)  # what the seed does to both arms
    arm = np.exp(common + generator.normal(math.log(ratio), spread, n))
    return arm.tolist(), np.exp(common + generator.normal(0, spread, n)).tolist()


def test_the_paired_t_test_is_scipys():
    arm, baseline = pairs(0, 7)
    ours, theirs = compare(arm, baseline, log_ratio=True), stats.ttest_rel(np.log(arm), np.log(baseline))
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_a_summary_has_scipys_interval():
    values = pairs(1, 6)[0]
    summary = summarize(values)
    low, high = stats.t.interval(0.95, 5, np.mean(values), stats.sem(values))
    assert (summary.low, summary.high) == pytest.approx((low, high), rel=1e-12)
    assert math.isnan(summarize([1.0]).sd)


def test_the_sign_flip_p_is_the_share_of_all_sign_patterns():
    arm, baseline = pairs(2, 8, ratio=0.93)
    d = [math.log(a / b) for a, b in zip(arm, baseline, strict=True)]
    as_extreme = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=8)
    ]
    expected = sum(value >= abs(sum(d)) - 1e-12 for value in as_extreme) / 2**8
    assert compare(arm, baseline, log_ratio=True).sign_flip_p == pytest.approx(expected)
    assert compare(arm[:7], baseline[:7], log_ratio=True).sign_flip_p is None


def test_the_detectable_difference_is_at_the_level_left_to_each_comparison():
    arm, base = [1.1, 2.3, 3.2], [1.0, 2.0, 3.0]
    alone, third = (compare(arm, base, log_ratio=False, comparisons=m) for m in (1, 3))
    error = alone.detectable / (stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2))
    assert third.detectable == pytest.approx((stats.t.ppf(1 - 0.05 / 6, 2) + stats.t.ppf(0.8, 2)) * error)
    assert (third.low, third.high) == (alone.low, alone.high)


def test_an_arm_equivalent_to_the_best_shares_its_rank():
    values = {"a": [1.0, 1.1, 0.9, 1.2], "b": [1.0101, 1.1110, 0.9091, 1.2121]}
    assert ranks(values, log_ratio=True) == {"a": 1, "b": 2}
    assert ranks(values, log_ratio=True, margin=0.05) == {"a": 1, "b": 1}


def test_an_interval_that_disagrees_with_a_corrected_p_says_so():
    base = [1.0, 1.1, 0.9, 1.2, 1.05, 0.95, 1.15, 1.0]
    step = [0.1, 0.02, 0.15, -0.02, 0.08, 0.01, 0.12, 0.0]
    arms = {f"arm{i}": [b * (1 + s) for b, s in zip(base, step, strict=True)] for i in range(4)}
    for result in compare_all({"base": base, **arms}, "base", log_ratio=True).values():
        assert result.comparison.low > 0 and result.verdict is Verdict.NOT_DISTINGUISHABLE
        assert "(the interval is not corrected)" in result.sentence


def test_the_detectable_difference_is_found_four_times_in_five():
    generator = np.random.default_rng(3)
    n, sd = 8, 0.1
    effect = (stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * sd / math.sqrt(n)
    found = stats.ttest_1samp(generator.normal(effect, sd, (4000, n)), 0, axis=1).pvalue < 0.05
    assert 0.77 < found.mean() < 0.84  # 0.805 exactly; the formula is slightly generous at small n
    c = compare([1 + x for x in (0.1, 0.2, 0.3)], [1.0, 1.0, 1.0], log_ratio=False)
    assert c.detectable == pytest.approx((stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * 0.1 / math.sqrt(3))


@pytest.mark.parametrize("n", [5, 8])
def test_intervals_cover_and_equal_arms_are_rarely_called_different(n):
    covered = different = 0
    for seed in range(2000):
        arm, baseline = pairs(seed, n)
        c = compare(arm, baseline, log_ratio=True)
        covered += c.low <= 0 <= c.high
        different += c.p < 0.05
    assert 0.935 <= covered / 2000 <= 0.965
    assert different / 2000 <= 0.07


def test_a_planted_difference_of_ten_percent_is_found():
    arm, baseline = pairs(4, 8, ratio=1.10, spread=0.02)
    result = compare_all({"good": baseline, "planted": arm}, "good", log_ratio=True)["planted"]
    assert result.verdict is Verdict.WORSE
    assert "planted is worse than good on this test set: loss +" in result.sentence


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1, made monotone
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@settings(derandomize=True, max_examples=60)
@given(LOSSES, st.randoms(use_true_random=False), st.floats(0.5, 2))
def test_swapping_negates_and_scaling_changes_nothing(losses, random, scale):
    other = [x * random.uniform(0.5, 2) for x in losses]
    forward, back = compare(losses, other, log_ratio=True), compare(other, losses, log_ratio=True)
    assert forward.difference == pytest.approx(-back.difference, abs=1e-12)
    assert forward.superiority == pytest.approx(1 - back.superiority)
    scaled = compare([scale * x for x in losses], [scale * x for x in other], log_ratio=True)
    assert scaled.p == pytest.approx(forward.p, rel=1e-6, abs=1e-12)


def test_verdicts():
    base = [1.0, 1.1, 0.9, 1.05, 0.95]
    values = {
        "base": base,
        "same": list(base),
        "close": [x * f for x, f in zip(base, (1.001, 0.999, 1.002, 0.998, 1.0005), strict=True)],
        "better": [x * f for x, f in zip(base, (0.5, 0.51, 0.49, 0.5, 0.52), strict=True)],
        "failed": [1.0, None, 0.9, None, 1.0],
    }
    results = compare_all(values, "base", log_ratio=True, margin=0.02)
    verdicts = {name: result.verdict for name, result in results.items()}
    assert verdicts == {
        "same": Verdict.IDENTICAL,
        "close": Verdict.EQUIVALENT,
        "better": Verdict.BETTER,
        "failed": Verdict.FAILED,
    }
    assert "failed on 2 of 5 seeds" in results["failed"].sentence
    assert results["failed"].comparison is None  # failures are never averaged
    assert compare_all(values, "base", log_ratio=True)["close"].verdict is Verdict.NOT_DISTINGUISHABLE
    against_a_failure = compare_all(values, "failed", log_ratio=True)
    assert all(r.verdict is Verdict.BETTER for r in against_a_failure.values())  # no arm is blamed for its baseline
    assert against_a_failure["close"].sentence == "close is better than failed (the baseline failed on 2 of 5 seeds)"
    untuned = compare_all({**values, "untuned": [None] * 5}, "base", log_ratio=True)["untuned"]
    assert untuned.sentence.startswith("untuned finished on none of the 5 seeds, so")  # it may never have run
    both = compare_all({**values, "other": [None, 1.0, 1.0, 1.0, 1.0]}, "failed", log_ratio=True)["other"]
    assert both.verdict is Verdict.FAILED and "failed on 1 of 5 seeds and failed failed on 2" in both.sentence


def test_larger_is_better_when_told_so():
    values = {"a": [0.5, 0.51, 0.52, 0.5], "b": [0.9, 0.91, 0.9, 0.93]}
    assert compare_all(values, "a", log_ratio=False, mode="max")["b"].verdict is Verdict.BETTER
    assert ranks(values, log_ratio=False, mode="max") == {"a": 2, "b": 1}


def test_a_constant_difference_is_certain_and_no_warning():
    c = compare([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], log_ratio=False)
    assert (c.p, c.low, c.high) == (0.0, 1.0, 1.0)


def test_arms_with_failed_seeds_rank_last():
    values = {"a": [1.0, None, 1.0], "b": [2.0, 2.1, 2.2], "c": [2.1, 2.0, 2.2]}
    assert ranks(values, log_ratio=True) == {"a": 3, "b": 1, "c": 1}
    assert ranks({"a": [None, None]}, log_ratio=True) == {"a": 1}


@pytest.mark.parametrize(
    ("arm", "baseline", "words"),
    [
        ([1.0], [1.0], "at least two"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "2 and 3 values"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
        ([1.0, 0.0], [1.0, 2.0], "> 0"),
        ([], [], "at least one"),
    ],
)
def test_bad_values_are_refused(arm, baseline, words):
    with pytest.raises(ArgumentError, match=words):
        compare(arm, baseline, log_ratio=True)
