"""Time to target: how long the confirmation runs of each arm took to reach a validation result fixed beforehand."""

import math
from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.time_to_target import first_step, grid, median
from fallline.lab.design.trial import Trial
from fallline.lab.report.measure import measure
from fallline.lab.report.records import Records
from fallline.lab.search.selection import Search


def fixed_target(study: StudyResults) -> float | None:
    """Return the median over the baseline's confirmation runs of the final validation metric; None where that failed.

    It is decided by the baseline alone, so that no arm can be favoured by choosing it after the curves were seen.
    """
    kind = measure(study)
    lower = [math.inf if v is None else kind.sign * v for v in study.confirmed(study.baseline, kind.metric)]
    target = kind.sign * median(lower)
    return target if math.isfinite(target) else None


def targets(study: StudyResults) -> list[float]:
    """Return the fixed target and easier ones, hardest first, up to what an arm has at its first evaluation."""
    target, kind = fixed_target(study), measure(study)
    if target is None:
        return []
    first = [o.curve[0][kind.metric] for _, o in _runs(study) if o.curve]
    easiest = kind.sign * max((kind.sign * value for value in first), default=kind.sign * target)
    return grid(target, easiest, kind.mode, kind.is_loss)


def time_to_target(study: StudyResults, target: float) -> Records:
    """Return a record an arm for one target.

    Keys: arm, target, reached, runs, and medians over the runs of steps, examples, gradient_evaluations and seconds.
    A run counts as reaching the target at its first evaluation there; a run that failed has missed it. Misses are
    infinite, so a median is infinite when half of the runs miss. Examples are None when the task does not say its
    batch size, seconds (steps × the median time of a step, without evaluation) when times were not kept.
    """
    rows = Records()
    for arm, search in study.searches.items():
        trials = study.confirmation_trials(search.arm.name)
        steps = steps_to(study, search, target)
        per_step: dict[str, list[float | None]] = {
            "examples": [_examples(study, search)] * len(trials),
            "gradient_evaluations": [_passes(search) for _ in trials],
            "seconds": [_seconds(study, trial) for trial in trials],
        }
        row: dict[str, Any] = {"arm": arm, "target": target, "reached": sum(map(math.isfinite, steps))}
        row |= {"runs": len(steps), "steps": median(steps)}
        for name, sizes in per_step.items():
            known = [size for size in sizes if size is not None]
            complete = len(known) == len(steps) and bool(steps)
            row[name] = median(s * size for s, size in zip(steps, known, strict=True)) if complete else None
        rows.append(row)
    return rows


def steps_to(study: StudyResults, search: Search, target: float) -> list[float]:
    """Return the steps that each confirmation run of an arm took to a target; infinity where it was missed."""
    kind = measure(study)
    outcomes = study.confirmation(search.arm.name)
    return [math.inf if o.failure else first_step(o.curve, kind.metric, target, kind.mode) for o in outcomes]


def _runs(study: StudyResults) -> list[tuple[Trial, Any]]:
    return [(t, study.outcome(t)) for arm in study.searches for t in study.confirmation_trials(arm)]


def _examples(study: StudyResults, search: Search) -> float | None:
    """Return the examples of a step, None when the task does not say."""
    task = study.spec.task_of(search.arm)
    size = getattr(task, "batch_size", None)
    return size * task.accumulate if isinstance(size, int) else None


def _passes(search: Search) -> float:
    """Return the gradients of the whole batch that a step takes."""
    return search.arm.space.passes


def _seconds(study: StudyResults, trial: Trial) -> float | None:
    costs = study.costs.get(trial.id)
    if costs is None:
        return None
    return costs.step_ms / 1000 / (costs.passes if trial.counts_gradients else 1)
