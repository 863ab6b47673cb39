"""Describe failed trials: find an error that all trials share, and write one sentence per arm."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.outcome import TRACEBACK, Failure, Outcome
from fallline.lab.design.trial import Trial


def shared_failure(outcomes: Sequence[Outcome]) -> Failure | None:
    """Return the failure of the first trial if all trials raised the same type of error at one line, else None."""
    failures = [outcome.failure or {} for outcome in outcomes]
    sources = {failure.get("source") for failure in failures}
    return failures[0] if failures and len(sources) == 1 and None not in sources else None


def describe_failures(study: StudyResults, folder: Path = Path()) -> list[str]:
    """Return one sentence per arm with failures: how many runs failed, how, when, why, and where the traceback is.

    Args:
        study: the results.
        folder: the folder of the study as the reader finds it; by default, paths are relative to it.
    """
    found = []
    for arm in study.searches:
        tuning = [*study.tuning_trials(arm), *study.repeated_trials(arm)]
        groups = (
            ("confirmation runs", study.confirmation_trials(arm)),
            ("runs at equal steps", study.confirmation_trials(arm, "equal-steps")),
            ("tuning trials", tuning),
        )
        parts = [_part(study, name, trials, folder) for name, trials in groups]
        if any(parts):
            found.append(f"{arm}: {'; '.join(filter(None, parts))}")
    return found


def _part(study: StudyResults, name: str, trials: Sequence[Trial], folder: Path) -> str:
    failed = [(trial, failure) for trial in trials if (failure := study.outcome(trial).failure) is not None]
    if not failed:
        return ""
    states = Counter(failure["state"] for _, failure in failed)
    reasons = []
    for state, count in states.most_common():
        trial, failure = next(pair for pair in failed if pair[1]["state"] == state)
        example = f"e.g. at step {failure['step']}" if count > 1 else f"at step {failure['step']}"
        log = failure.get("log", TRACEBACK)
        kind = "traceback" if log == TRACEBACK else "output"
        kept = folder / "trials" / trial.id / log
        where = f"; {kind} in {kept.as_posix()}" if "source" in failure else ""
        reasons.append(f"{count} {state} ({example}: {failure['cause']}{where})")
    return f"{len(failed)} of {len(trials)} {name} failed: {', '.join(reasons)}"
