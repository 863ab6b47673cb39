"""Does the lab call different what is different, and nothing else? Asked of 240 real runs of one configuration."""

import math
import random
import statistics

import pytest
import scipy.stats

from fallline.lab.analysis.statistics import compare
from fallline.lab.analysis.verdicts import Verdict, compare_all
from fallline.lab.design.arms import make_arms
from fallline.lab.design.spec import Spec
from fallline.lab.executors.pool import LocalPool
from fallline.lab.search.selection import Search
from fallline.lab.search.trials import confirm
from fallline.lab.storage.store import Store

pytestmark = pytest.mark.slow
RUNS, SEEDS, PAIRS = 240, 8, 2000


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """The test losses of one configuration over RUNS seeds, as the lab's own workers give them."""
    (arm,) = make_arms(["adam@lr=3e-3"], ["cosine"])
    spec = Spec("digits", 200, (arm,), trials=1, seeds=RUNS)
    store = Store(tmp_path_factory.mktemp("runs"))
    defaults = {**arm.space.defaults, **arm.fixed}
    trials = confirm(spec, Search(arm, (), (defaults,), (0,), best=0))
    with LocalPool(store.folder, 2) as pool:
        for _ in pool.run(trials):
            pass
    outcomes = [store.outcome(trial) for trial in trials]
    assert len({o.metrics["test_loss"] for o in outcomes}) == RUNS and not any(o.failure for o in outcomes)
    return [o.metrics["test_loss"] for o in outcomes]


def draws(losses, count, seeds):
    """Yield two disjoint sets of runs, `count` times."""
    generator = random.Random(0)
    for _ in range(count):
        chosen = generator.sample(losses, 2 * seeds)
        yield chosen[:seeds], chosen[seeds:]


def found(arm, baseline, **options):
    (result,) = compare_all({"a": baseline, "b": arm}, "a", log_ratio=True, **options).values()
    return result.verdict


def test_an_arm_differs_from_itself_in_at_most_7_percent_of_disjoint_pairs(losses):
    different = sum(found(x, y) in (Verdict.BETTER, Verdict.WORSE) for x, y in draws(losses, PAIRS, SEEDS))
    print(f"called different: {different} of {PAIRS}")
    assert different <= 0.07 * PAIRS
    assert different >= 0.02 * PAIRS  # a test at 5 % that hardly ever errs has no power either


def test_with_three_other_arms_the_correction_keeps_the_error_of_the_whole_family(losses):
    generator = random.Random(1)
    wrong = 0
    for _ in range(500):
        chosen = generator.sample(losses, 4 * SEEDS)
        values = {name: chosen[SEEDS * i : SEEDS * (i + 1)] for i, name in enumerate("abcd")}
        results = compare_all(values, "a", log_ratio=True)
        wrong += any(r.verdict in (Verdict.BETTER, Verdict.WORSE) for r in results.values())
    assert wrong <= 0.07 * 500


def seeds_for(power, spread, difference):
    """The fewest pairs with which a two-sided t-test at 5 % finds a difference, by the noncentral t distribution."""
    for n in range(2, 1000):
        shift, limit = difference * math.sqrt(n) / spread, scipy.stats.t.ppf(0.975, n - 1)
        if scipy.stats.nct.sf(limit, n - 1, shift) + scipy.stats.nct.cdf(-limit, n - 1, shift) >= power:
            return n
    raise AssertionError("no number of seeds below 1000 suffices")


@pytest.mark.parametrize("power", [0.8, 0.95])
def test_an_arm_that_is_10_percent_worse_is_found_with_the_seeds_that_this_takes(losses, power):
    """Its runs are others, with noise of their own, and 10 % higher; the lab pairs seeds, which only helps."""
    spread = math.sqrt(2) * statistics.stdev(map(math.log, losses))  # of a difference between two runs
    seeds = seeds_for(power, spread, math.log(1.1))
    verdicts = [found([1.1 * v for v in x], y) for x, y in draws(losses, 500, seeds)]
    share = verdicts.count(Verdict.WORSE) / len(verdicts)
    print(f"spread {spread:.3f}: {seeds} seeds for {power:.0%}; found in {share:.1%}")
    assert abs(share - power) <= 4 * math.sqrt(power * (1 - power) / len(verdicts))
    assert verdicts.count(Verdict.BETTER) == 0


def test_what_is_called_detectable_is_found_four_times_in_five(losses):
    """The minimum detectable difference that the report prints, planted: 80 % ± 4 binomial deviations."""
    pairs = list(draws(losses, 500, SEEDS))
    detectable = math.exp(sum(compare(x, y, log_ratio=True).detectable for x, y in pairs) / len(pairs))
    share = sum(found([detectable * v for v in x], y) is Verdict.WORSE for x, y in pairs) / len(pairs)
    print(f"planted {detectable - 1:.1%} at {SEEDS} seeds: found in {share:.1%}")
    assert 0.73 <= share <= 0.87
