"""The variance of a mean difference from seeds, examples and splits, against formulas written out and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from fallline.lab.analysis.pairing import pair_design
from fallline.lab.analysis.statistics import compare
from fallline.lab.analysis.variance import FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly
from fallline.lab.analysis.verdicts import Verdict, compare_all
from fallline.lab.design.outcome import ITEM, Outcome


def tables(seed, seeds=6, items=40):
    """Losses (seeds, items) of an arm and its baseline, above 0."""
    draw = np.random.default_rng(seed)
    return np.exp(0.3 * draw.standard_normal((seeds, items)) + 0.4 * draw.standard_normal(items)), np.exp(
        0.3 * draw.standard_normal((seeds, items)) + 0.4 * draw.standard_normal(items)
    )


def test_crossed_seeds_and_examples_are_a_two_way_analysis_of_variance():
    arm, base = tables(0)
    u = arm - base
    seeds, items = u.shape
    rows, columns, mean = u.mean(1), u.mean(0), u.mean()
    ms_s = items * ((rows - mean) ** 2).sum() / (seeds - 1)
    ms_e = seeds * ((columns - mean) ** 2).sum() / (items - 1)
    ms_r = ((u - rows[:, None] - columns + mean) ** 2).sum() / ((seeds - 1) * (items - 1))
    found = FixedTestSet(list(arm), list(base)).variance(rows, log_ratio=False)
    assert found.total == pytest.approx((ms_s + max(0, ms_e - ms_r)) / (seeds * items), rel=1e-10)
    assert ms_e > ms_r and found.seeds == pytest.approx(ms_s / (seeds * items), rel=1e-10)


def test_examples_that_explain_nothing_leave_the_paired_t_test():
    draw = np.random.default_rng(1)
    arm, base = 2 + draw.standard_normal((2, 8, 30))
    arm -= arm.mean(0) - 2  # every example has the same mean over the seeds
    base -= base.mean(0) - 2
    c = compare(arm.mean(1), base.mean(1), log_ratio=False, design=FixedTestSet(list(arm), list(base)))
    assert c.variance.examples == 0
    assert c.p == pytest.approx(stats.ttest_rel(arm.mean(1), base.mean(1)).pvalue)


def test_own_splits_have_the_variance_of_seeds_and_that_of_the_pool():
    arm, base = tables(2)
    d = np.log(arm.mean(1) / base.mean(1))
    spread = np.mean([np.var(a / a.mean() - b / b.mean(), ddof=1) for a, b in zip(arm, base, strict=True)])
    found = RandomSplits(list(arm), list(base), [], pool=200).variance(d, log_ratio=True)
    assert found.seeds == pytest.approx(d.var(ddof=1) / 6) and found.examples == pytest.approx(spread / 200)
    assert found.sampling == pytest.approx(min(found.seeds, spread / 40 / 6))


def test_without_single_losses_splits_have_the_variance_of_nadeau_and_bengio():
    d = np.array([0.1, 0.3, -0.2, 0.4])
    assert RandomSplitMeans(0.25).variance(d, True).total == pytest.approx(d.var(ddof=1) * (1 / 4 + 0.25))


@pytest.mark.parametrize("log_ratio", [True, False])
def test_the_linearisation_is_the_derivative(log_ratio):
    """Leaving one example out changes the difference of a seed by its contribution / (items − 1), to first order."""
    arm, base = (part[0] for part in tables(3, seeds=1, items=2000))

    def difference(a, b):
        return math.log(a.mean() / b.mean()) if log_ratio else a.mean() - b.mean()

    whole = difference(arm, base)
    for item in (0, 7, 100):
        without = difference(np.delete(arm, item), np.delete(base, item))
        contribution = (
            arm[item] / arm.mean() - base[item] / base.mean() if log_ratio else arm[item] - base[item] - whole
        )
        assert (whole - without) * 1999 == pytest.approx(contribution, rel=0.02, abs=1e-3)


def test_the_pool_adds_the_covariance_of_an_example_with_itself_in_other_seeds():
    arm, base = tables(8, seeds=3, items=60)
    draw = np.random.default_rng(8)
    examples = [draw.choice(90, 60, replace=False).astype(np.uint64) + 1 for _ in range(3)]
    u = [dict(zip(row.tolist(), a - b, strict=True)) for row, a, b in zip(examples, arm, base, strict=True)]
    means = [np.mean(list(row.values())) for row in u]
    products = [
        (u[s][e] - means[s]) * (u[t][e] - means[t])
        for s, t in ((0, 1), (0, 2), (1, 2))
        for e in u[s].keys() & u[t].keys()
    ]
    d = arm.mean(1) - base.mean(1)
    found = RandomSplits(list(arm), list(base), examples, pool=90).variance(d, log_ratio=False)
    assert found.examples == pytest.approx(max(0.0, np.mean(products)) / 90)
    unknown = RandomSplits(list(arm), list(base), [], pool=90).variance(d, log_ratio=False)
    few = [row + np.uint64(50 * seed) for seed, row in enumerate(examples)]
    assert RandomSplits(list(arm), list(base), few, pool=90).variance(d, False) == unknown  # too few in common


def test_the_covariance_is_what_an_example_does_in_every_seed():
    """Contributions of known variance: 0.5² common to all seeds, 1.0² another one in every seed."""
    draw = np.random.default_rng(9)
    common, rows = 0.5 * draw.standard_normal(2000), [draw.choice(2000, 800, replace=False) for _ in range(12)]
    arm = [2 + common[row] + draw.standard_normal(800) for row in rows]
    base = [np.full(800, 2.0)] * 12
    d = np.array([part.mean() - 2 for part in arm])
    examples = [row.astype(np.uint64) + 1 for row in rows]
    found = RandomSplits(arm, base, examples, pool=2000).variance(d, log_ratio=False).examples * 2000
    assert found == pytest.approx(0.25, abs=0.02)
    assert RandomSplits(arm, base, [], pool=2000).variance(d, False).examples * 2000 == pytest.approx(1.25, abs=0.05)


def runs(table, shuffled=False, **facts):
    kept = {"items": table.shape[1], "kind": "example", **facts}
    found = []
    for number, row in enumerate(table):
        items = np.empty(len(row), ITEM)
        items["metric"], items["example"] = row, np.arange(1, len(row) + 1)
        order = np.random.default_rng(number).permutation(len(row)) if shuffled else slice(None)
        found.append(Outcome(None, {}, [], test_set=kept, items=items[order]))
    return found


def without_items(found, **facts):
    return [Outcome(None, {}, [], test_set={**run.test_set, **facts}) for run in found]


def test_what_runs_have_kept_decides_what_a_verdict_holds_for():
    arm, base = (runs(table) for table in tables(4))
    fixed = pair_design(arm, base, resplit=False)
    assert isinstance(fixed, FixedTestSet) and fixed.limit == "the 40 test examples"
    few = pair_design(*(runs(table) for table in tables(4, items=19)), resplit=False)
    assert isinstance(few, SeedsOnly) and "only 19 examples" in few.reason
    shuffled = pair_design(runs(tables(4)[0], shuffled=True), base, resplit=False)
    assert all(np.array_equal(a, b) for a, b in zip(shuffled.arm, fixed.arm, strict=True))  # paired by content
    other = runs(tables(4)[0])
    other[2].items["example"][0] = 77
    assert "not the same in all runs" in pair_design(other, base, resplit=False).reason
    lost = pair_design(arm, without_items(base), resplit=False)
    assert isinstance(lost, SeedsOnly) and "items.npy" in lost.reason
    none = pair_design(without_items(arm, items=0), without_items(base, items=0), resplit=False)
    assert none.scope == "on this test set" and "no losses() method" in none.reason
    sizes = {"pool": 200, "train": 120, "val": 40, "test": 40}
    split = pair_design(runs(tables(4)[0], **sizes), runs(tables(4)[1], **sizes), resplit=True)
    assert isinstance(split, RandomSplits) and split.pool == 200 and len(split.examples) == 6
    blind = without_items(runs(tables(4)[0], **sizes), items=0)
    assert pair_design(blind, blind, resplit=True) == RandomSplitMeans(40 / 120)


def test_batches_count_as_items_of_the_pool():
    sizes = {"pool": 2000, "train": 1200, "test": 400, "kind": "batch"}
    arm, base = (runs(table, **sizes) for table in tables(5, items=25))
    assert pair_design(arm, base, resplit=True).pool == 2000 * 25 / 400  # 125 batches of 16


def test_a_verdict_on_few_examples_is_not_significant_though_seeds_agree():
    """All seeds find the same difference on these 25 examples; new examples could turn it."""
    draw = np.random.default_rng(6)
    easy = 1 + 0.5 * draw.random(25)
    arm = easy + 0.3 * draw.standard_normal(25) + 0.01 * draw.standard_normal((8, 1))
    base = np.tile(easy, (8, 1))
    values = {"base": base.mean(1).tolist(), "arm": arm.mean(1).tolist()}
    alone = compare_all(values, "base", log_ratio=False)["arm"]
    crossed = compare_all(values, "base", log_ratio=False, design=lambda a, b: FixedTestSet(list(arm), list(base)))[
        "arm"
    ]
    assert alone.verdict in (Verdict.BETTER, Verdict.WORSE) and "on this test set" in alone.sentence
    assert crossed.verdict is Verdict.NOT_DISTINGUISHABLE and crossed.is_decided()  # no seed could decide it
    assert "with new seeds and new test examples" in crossed.sentence
    assert crossed.comparison.detectable > alone.comparison.detectable


def test_intervals_cover_the_difference_on_new_examples():
    """A small form of benchmarks/interval_coverage.py: random effects of seeds and examples with known variances."""
    draw = np.random.default_rng(7)
    hits = {"crossed": 0, "seeds": 0}
    for _ in range(400):
        shape = (8, 100)
        arm = (
            2
            + 0.05 * draw.standard_normal((8, 1))
            + 0.6 * draw.standard_normal(100)
            + 0.3 * draw.standard_normal(shape)
        )
        base = 2 + 0.05 * draw.standard_normal((8, 1)) + 0.6 * draw.standard_normal(100)
        base = base + 0.3 * draw.standard_normal(shape)
        for name, design in (("crossed", FixedTestSet(list(arm), list(base))), ("seeds", SeedsOnly())):
            c = compare(arm.mean(1), base.mean(1), log_ratio=False, design=design)
            hits[name] += c.low <= 0 <= c.high
    assert hits["crossed"] / 400 >= 0.93 and hits["seeds"] / 400 < 0.8
