"""Which trials a study still needs, from what its folder holds: tuning, then one look at the seeds after the other."""

from pathlib import Path

from fallline.lab.analysis.verdicts import Verdict
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.trial import Trial
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_spec, read_study
from fallline.lab.study import Study


def load(folder: str | Path) -> Study:
    """Return the finished study in a folder, with the baseline and margin it was last compared with.

    Raises:
        StudyError: the folder holds none.
        ArgumentError: trials of the study are missing.
    """
    stored = read_study(Path(folder))
    study = Study(read_spec(Path(folder)), Store(Path(folder), writable=False), **stored["analysis"])
    known_so_far(study)
    for trial in study.trials:
        study.outcome(trial)
    return study


def known_so_far(study: Study) -> list[Trial]:
    """Set the study's searches and seeds from what has been run, and return the tuning trials known to be needed."""
    known: dict[str, Outcome] = {}
    while True:
        trials, study.searches = tune(study.spec, known)
        fresh = {t.id: o for t in trials if t.id not in known and (o := study.store.outcome(t)) is not None}
        if not fresh:
            break
        known |= fresh
    if all(trial.id in known for trial in trials):
        count_seeds(study)
    return trials


def count_seeds(study: Study) -> list[Trial]:
    """Set on how many seeds the study confirms, as far as is known, and return the trials of that stage.

    It is the first look at which every comparison is decided, else the first one with runs missing, else the last.
    """
    trials: list[Trial] = []
    for seeds in study.spec.looks:
        study.seeds = seeds
        stages = ("confirm", "equal-steps")
        trials = [t for stage in stages for arm in study.searches for t in study.confirmation_trials(arm, stage)]
        if any(study.store.outcome(trial) is None for trial in trials) or study.is_decided():
            break
    return trials


def stopping(study: Study) -> str:
    """Return after how many seeds the confirmation stopped and why, as a sentence; empty for a fixed number."""
    looks = study.spec.looks
    if len(looks) == 1 or not study.results:
        return ""
    undecided = [arm for arm, result in study.results.items() if result.verdict is Verdict.NOT_DISTINGUISHABLE]
    if study.seeds == looks[-1] and not study.is_decided():
        return f"All {study.seeds} seeds were used; they could not decide {', '.join(undecided)}."
    why = "every comparison was decided"
    if undecided:
        why = f"further seeds could not decide {', '.join(undecided)}, since the examples are the limit"
    return f"The confirmation stopped after {study.seeds} of at most {looks[-1]} seeds: {why}."
