"""What is said of failed trials: an error that all of them share, and a sentence per arm."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fallline.errors import StudyError
from fallline.lab.design.trial import Trial
from fallline.lab.search.trials import trials_again, tuning_trials

if TYPE_CHECKING:
    from fallline.lab.study import Study


def check_shared_error(study: "Study", trials: Sequence[Trial], shared_folder: bool = False) -> None:
    """End a study of which every trial raised the same error, at the same line: no arm can be blamed for it.

    Args:
        study: the study.
        trials: those that have been run so far.
        shared_folder: whether other processes run trials of the study, which wait for these outcomes. If not, the
            outcomes are removed, so that the same command runs the trials again.

    Raises:
        StudyError: every trial raised the same error.
    """
    failures = [study.outcome(trial).failure or {} for trial in trials]
    sources = {failure.get("source") for failure in failures}
    if not trials or len(sources) != 1 or None in sources:
        return
    kept = study.store.traceback(trials[0])
    text, remedy = kept.read_text(encoding="utf-8"), f"fix it, delete {str(kept.parents[1])!r} and rerun the command"
    if not shared_folder:
        study.store.write(kept.name, text)
        for trial in trials:
            study.store.discard(trial)
        kept, remedy = study.store.folder / kept.name, "fix it and rerun the command"
    raise StudyError(
        f"trial: must run without an error, got {failures[0]['cause']} in all {len(trials)} trials of all arms; "
        f"{remedy}. The traceback is in {str(kept)!r}"
    )


def failure_sentences(study: "Study") -> list[str]:
    """Return for every arm with failures how many of its runs failed, in which way, when, why, and where to look."""
    found = []
    for arm, search in study.searches.items():
        tuning = [*tuning_trials(study.spec, search), *trials_again(study.spec, search)]
        groups = (
            ("confirmation runs", study.confirmation_trials(arm)),
            ("runs at equal steps", study.confirmation_trials(arm, "equal-steps")),
            ("tuning trials", tuning),
        )
        parts = [_part(study, name, trials) for name, trials in groups]
        if any(parts):
            found.append(f"{arm}: {'; '.join(filter(None, parts))}")
    return found


def _part(study: "Study", name: str, trials: Sequence[Trial]) -> str:
    failed = [(trial, failure) for trial in trials if (failure := study.outcome(trial).failure) is not None]
    if not failed:
        return ""
    states = Counter(failure["state"] for _, failure in failed)
    reasons = []
    for state, count in states.most_common():
        trial, failure = next(pair for pair in failed if pair[1]["state"] == state)
        example = f"e.g. at step {failure['step']}" if count > 1 else f"at step {failure['step']}"
        where = f"; traceback in trials/{trial.id}/{study.store.traceback(trial).name}" if "source" in failure else ""
        reasons.append(f"{count} {state} ({example}: {failure['cause']}{where})")
    return f"{len(failed)} of {len(trials)} {name} failed: {', '.join(reasons)}"
