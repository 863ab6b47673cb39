"""Check the verdict of a study by running its tuned configurations on further splits and seeds.

    python benchmarks/check_verdict.py DIR --splits 24

DIR is the folder of a study of a task without an official split, such as `digits`. The exit code is 1 if the interval
of a comparison does not cover the mean difference over the further splits.
"""

import argparse
import math
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from fallline.lab import load
from fallline.lab.analysis.statistics import Comparison
from fallline.lab.design.trial import Trial
from fallline.lab.executors.pool import LocalPool
from fallline.lab.isolation import derive
from fallline.lab.storage.store import Store
from fallline.lab.study import Study


def further_trials(study: Study, arm: str, count: int) -> list[Trial]:
    """Return the confirmed configuration of an arm on further splits and seeds, which are the same for all arms."""
    trial = study.confirmation_trials(arm)[0]
    stream = study.spec.seed
    return [
        replace(trial, seed=derive(stream, "further", i), split=derive(stream, "further split", i))
        for i in range(count)
    ]


def main() -> int:
    """Run the further trials and print a line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=24)
    arguments = parser.parse_args()
    study = load(arguments.folder)
    if not study.spec.resplit:
        parser.error(f"DIR must hold a study of a task that splits its data itself, got {study.spec.task}")
    trials = {arm: further_trials(study, arm, arguments.splits) for arm in study.arms}
    with tempfile.TemporaryDirectory() as folder, LocalPool(Path(folder), 2) as pool:
        for _ in pool.run([trial for own in trials.values() for trial in own]):
            pass
        store = Store(Path(folder))
        outcomes = {arm: [store.outcome(trial) for trial in own] for arm, own in trials.items()}
    losses = {
        arm: [None if o is None or o.failure else o.metrics[study.headline] for o in found]
        for arm, found in outcomes.items()
    }
    for arm, found in outcomes.items():
        for reason in (o.failure["cause"] for o in found if o is not None and o.failure):
            print(f"{arm}: a run failed ({reason}); its split is left out of the comparisons with it")
    missed = 0
    for arm, result in study.results.items():
        c = result.comparison
        if c is None:
            print(f"{result.sentence}: not checked")
            continue
        pairs = zip(losses[arm], losses[study.baseline], strict=True)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        d = [math.log(a / b) if c.log_ratio else a - b for a, b in known]
        mean, error = statistics.mean(d), statistics.stdev(d) / math.sqrt(len(d))
        covered = c.low <= mean <= c.high
        missed += not covered
        shown = [
            Comparison.format_change(x, "+") if c.log_ratio else f"{x:+.4g}" for x in (mean, mean - error, mean + error)
        ]
        print(f"study: {result.sentence}")
        reversed_signs = sum(x * mean < 0 for x in d)
        print(
            f"  on {len(d)} further splits: {shown[0]} (± one standard error: {shown[1]} to {shown[2]}); the sign is "
            f"reversed on {reversed_signs}; the interval {'covers' if covered else 'DOES NOT COVER'} it"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
