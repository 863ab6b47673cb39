"""Warnings that a reader of a study needs before trusting its numbers."""

import contextlib
import itertools
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import Comparison, compare, holm, paired_differences
from fallline.lab.design.param_groups import SCALED
from fallline.lab.design.spaces import BETAS
from fallline.lab.search.selection import Search

DISAGREEMENT = 0.01  # significance level at which validation and test are reported to disagree


def find_caveats(study: StudyResults) -> list[str]:
    """Return one sentence per problem: skipped checks of the task, and arms whose tuning or evaluation is doubtful."""
    found = _skipped_checks(study)
    for arm, search in study.searches.items():
        if search.best is None:
            found.append(f"{arm}: {_all_failed(study, search)}")
        elif search.edge is not None and search.end is not None:
            found.append(f"{arm}: {_at_an_edge(search, *search.edge, search.end[1])}")
        elif not search.ranges:
            found.append(f"{arm}: nothing was tuned, since every searched hyperparameter is fixed")
        if (same := _without_effect(study, search)) is not None:
            found.append(f"{arm}: {same}")
    return found + _disagreements(study)


def _disagreements(study: StudyResults) -> list[str]:
    """Return one sentence for each pair of arms whose difference on test differs significantly from that on validation.

    The test is a paired t-test over the seeds. It compares the difference of the two arms on test with their difference
    on validation, at a level of 1 % over all pairs of arms (Holm).
    """
    trials = [trial for arm in study.searches for trial in study.confirmation_trials(arm)]
    if not study.has(trials):
        return []
    values = {arm: (study.confirmed(arm), study.confirmed(arm, study.metric)) for arm in study.arms}
    complete = [arm for arm, rows in values.items() if None not in rows[0] and None not in rows[1]]
    complete.sort(key=lambda arm: arm != study.baseline)  # differences to the baseline have the signs of the verdicts
    pairs, found = list(itertools.combinations(complete, 2)), []
    log_ratio = study.log_ratio and all(v is not None and v > 0 for arm in complete for v in values[arm][1])
    differences = [
        [paired_differences(values[other][k], values[one][k], log_ratio) for k in (0, 1)]  # type: ignore[arg-type]
        for one, other in pairs
    ]
    corrected = holm([compare(test.tolist(), val.tolist(), log_ratio=False).p for test, val in differences])
    for (one, other), (test, val), p in zip(pairs, differences, corrected, strict=True):
        if p < DISAGREEMENT:
            texts = [_amount(float(d.mean()), log_ratio) for d in (val, test)]
            found.append(
                f"validation and test disagree significantly on {other} against {one} ({texts[0]} on validation, "
                f"{texts[1]} on test, corrected p = {p:.2g}): one of the two sets is small or was drawn differently"
            )
    return found


def _amount(mean: float, log_ratio: bool) -> str:
    """Return a mean difference with its sign, as in the tables."""
    return Comparison.format_change(mean, "+") if log_ratio else f"{mean:+.4g}".replace("-", "−")


def _without_effect(study: StudyResults, search: Search) -> str | None:
    """Return a warning if tuning trials with different hyperparameters are bit-for-bit identical, else None."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    trials = study.tuning_trials(search.arm.name)
    for trial, point in zip(trials, search.points, strict=True):
        with contextlib.suppress(ArgumentError):  # not run yet
            outcome = study.outcome(trial)
            if outcome.curve and outcome.failure is None:
                groups.setdefault(repr((trial.seed, outcome.metrics, outcome.curve)), []).append(point)
    equal = [points for points in groups.values() if any(point != points[0] for point in points)]
    if not equal:
        return None
    names = [d.name for d in search.ranges if any(len({repr(p[d.name]) for p in ps}) > 1 for ps in equal)]
    listed = " and ".join(names) or "hyperparameters"
    return (
        f"{sum(map(len, equal))} of its {len(trials)} tuning trials are bit-for-bit identical although {listed} "
        f"{'differ' if len(names) != 1 else 'differs'}, so searching {listed} has no effect there; "
        + _cause(study, search, names)
    )


def _cause(study: StudyResults, search: Search, names: Sequence[str]) -> str:
    """Return why hyperparameters had no effect, or the possible causes where the cause is not known."""
    groups = study.manifest.get("groups", [])
    options = {name: "betas" if name in BETAS else name for name in names}
    own = [n for n, o in options.items() if groups and all(o in g["own"] and n not in SCALED for g in groups)]
    still = [n for n in names if n in SCALED and groups and all(g.get(n) == 0 for g in groups)]
    if own:
        return f"param_groups of the task sets {' and '.join(own)} itself, in every group"
    if still:
        return f"param_groups of the task sets {' and '.join(still)} to 0 in every group"
    return (
        f"possible causes: {search.arm.optimizer} ignores it, the updates are lost in rounding, or the task does not "
        "use the updates"
    )


def _skipped_checks(study: StudyResults) -> list[str]:
    """Return one sentence if checks of the task were skipped at the start of the study, else an empty list."""
    names: list[str] = study.manifest.get("skipped_checks", [])
    if not names:
        return []
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    was = "checks" if len(names) > 1 else "check"
    verb = "were" if len(names) > 1 else "was"
    return [
        f"the {was} {listed} of the task {verb} skipped because of its skip_checks; the corresponding properties are "
        "not verified"
    ]


def _all_failed(study: StudyResults, search: Search) -> str:
    """Return a sentence about a search in which every trial failed: how the trials failed, and what to do."""
    trials = study.tuning_trials(search.arm.name)
    failures = [failure for trial in trials if (failure := study.outcome(trial).failure) is not None]
    states = ", ".join(f"{count} {state}" for state, count in Counter(f["state"] for f in failures).most_common())
    rates = sorted(point.get("lr", math.nan) for point in search.points)
    tried = f"lr {rates[0]:.2g}" if rates[0] == rates[-1] else f"lr {rates[0]:.2g} to {rates[-1]:.2g}"
    arm, task = search.arm.optimizer, study.spec.task
    command = shlex.join(["fallline", "lr-range", task, "--optimizer", arm])
    return (
        f"every tuning trial failed ({states}; {tried}), so no configuration was confirmed; `{command}` shows at which "
        f"learning rates the loss falls; search there with {arm}@lr=LOW..HIGH"
    )


def _at_an_edge(search: Search, name: str, side: str, end: str) -> str:
    """Return a sentence about an optimum at an edge of a searched range.

    Args:
        search: the tuning of the arm.
        name: the hyperparameter.
        side: "low" or "high" edge of the searched dimension.
        end: "low" or "high" end of the hyperparameter's own values; it differs from `side` where 1 − value is searched.
    """
    given, last = (next(d for d in ds if d.name == name) for ds in (search.arm.space.dimensions, search.ranges))
    more = "even after extending it"
    if getattr(last, side) == getattr(given, side):
        # The rounds may have extended another hyperparameter, or the further seeds of the finalists changed the best.
        more = f"which was not extended; widen it: {search.arm.optimizer}@{name}=LOW..HIGH"
    return f"the best {name} lies at the {end} end of its range, {more}"
