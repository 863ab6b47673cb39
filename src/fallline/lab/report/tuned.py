"""What tuning shows of a study: how sensitive each arm is to its learning rate, and what a budget would have bought."""

import math
from statistics import median
from typing import TYPE_CHECKING

from fallline.errors import FalllineError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.sensitivity import sensitivity
from fallline.lab.analysis.tuning_budget import best_of
from fallline.lab.report.measure import measure
from fallline.lab.report.records import Records
from fallline.lab.search.selection import Search
from fallline.lab.search.trials import trials_again, tuning_trials

if TYPE_CHECKING:
    from fallline.lab.design.spaces import Dimension


def searched(study: StudyResults) -> dict[str, "Dimension"]:
    """Return the hyperparameters that any arm searched, the learning rate first, each as one arm has it."""
    found = {d.name: d for search in study.searches.values() for d in search.ranges}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "lr", name))}


def untrained(study: StudyResults) -> float:
    """Return what a failed trial is worth, as a metric: the loss of a predictor that ignores its input.

    Where the task does not say, or the metric is no loss, it is the worst result of any trial that did not fail; NaN
    when all failed.
    """
    kind = measure(study)
    trivial = None
    if kind.is_loss:
        try:
            trivial = study.spec.learning.trivial_loss()
        except (FalllineError, OSError):  # a report can be written where the data are not
            trivial = None
    if trivial is not None:
        return trivial
    found = [v for search in study.searches.values() for v in results(study, search) if v is not None]
    return kind.sign * max((kind.sign * value for value in found), default=math.nan)


def results(study: StudyResults, search: Search) -> list[float | None]:
    """Return the validation metric of an arm's tuning trials, by index; None where the trial failed."""
    metric = measure(study).metric
    outcomes = [study.outcome(trial) for trial in tuning_trials(study.spec, search)]
    return [None if o.failure else o.metrics[metric] for o in outcomes]


def repeated(study: StudyResults, search: Search) -> dict[int, list[float | None]]:
    """Return the validation metric of the configurations that were tried on several seeds, by index; None: failed."""
    metric, trials = measure(study).metric, trials_again(study.spec, search)
    found: dict[int, list[float | None]] = {index: [] for index in search.finalists}
    for trial in [*(t for t in tuning_trials(study.spec, search) if t.index in found), *trials]:
        outcome = study.outcome(trial)
        found[trial.index].append(None if outcome.failure else outcome.metrics[metric])
    return found


def sensitivities(study: StudyResults) -> Records:
    """Return a record an arm: arm, best, excess, width (decades) and open, as `sensitivity` defines them.

    Arms that tried a single learning rate, or whose trials all failed, have None for the numbers.
    """
    sign, start = measure(study).sign, untrained(study)
    rows = Records()
    for arm, search in study.searches.items():
        found = results(study, search)
        rates = [point["lr"] for point in search.points]
        lower = [None if value is None else sign * value for value in found]
        result = sensitivity(rates, lower, sign * start) if len(set(rates)) > 1 else None
        row = {"excess": result.excess, "width": result.width, "open": result.open} if result else {}
        best = min((value for value in lower if value is not None), default=None)
        low, high = min(rates), max(rates)
        rows.append(
            {"arm": arm, "lowest_lr": low, "highest_lr": high, "best": best if best is None else sign * best}
            | {"excess": None, "width": None, "open": None, **row}
        )
    return rows


def budgets(study: StudyResults) -> Records:
    """Return a record an arm and budget: arm, trials, seconds, expected (best validation metric), failing.

    The trials are the points of the search, extensions included; the default, which is no random trial, counts only
    where nothing else was run. Seconds are trials × the arm's median time of a trial, which the compilation
    in a worker's first trial does not touch; None when it was not kept.
    """
    sign, start = measure(study).sign, untrained(study)
    rows = Records()
    for arm, search in study.searches.items():
        first = 1 if len(search.points) > 1 else 0
        trials = tuning_trials(study.spec, search)[first:]
        costs = [study.costs[trial.id].seconds for trial in trials if trial.id in study.costs]
        seconds = median(costs) if costs else None
        lower = [None if value is None else sign * value for value in results(study, search)[first:]]
        if all(value is None for value in lower):
            continue
        rows += [
            {
                "arm": arm,
                "trials": best.k,
                "seconds": seconds and best.k * seconds,
                "expected": sign * best.expected,
                "failing": best.failing,
            }
            for best in best_of(lower, sign * start)
        ]
    return rows
