"""Rerun a stored trial and compare the result with the stored one."""

import json
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import StudyError
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.provenance.identity import current
from fallline.lab.provenance.manifest import versions
from fallline.lab.provenance.verification import as_specified
from fallline.lab.run.attempt import attempt
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_study


@dataclass(frozen=True)
class Reproduction:
    """The comparison of a rerun trial with its stored outcome.

    Attributes:
        trial: specification of the trial.
        stored, again: the stored outcome and the outcome of the rerun.
        changes: one sentence per difference: versions, files, and numbers.
    """

    trial: Trial
    stored: Outcome
    again: Outcome
    changes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every number is bit-for-bit identical."""
        return _plain(self.stored) == _plain(self.again)


def reproduce(folder: str | Path, trial_id: str) -> Reproduction:
    """Rerun a trial of a study and compare the outcomes.

    Args:
        folder: folder of the study.
        trial_id: id of the trial, or a prefix that is unique in the study.

    Raises:
        StudyError: the study or the trial does not exist, several trials match, or a file changes during the run.
    """
    manifest = read_study(Path(folder))["manifest"]
    record = json.loads((_find(Path(folder), trial_id) / "trial.json").read_text(encoding="utf-8"))
    trial, stored = Trial(**record["trial"]), Outcome.from_json(record["outcome"])
    stored.items = Store(Path(folder), writable=False).items(trial)
    now = current(trial)
    changes = [*_versions(manifest["versions"]), *_differences_of_code(trial, now)]
    with as_in_a_worker(), as_specified(now):
        made = attempt(now).outcome
    again = Outcome.from_json(made.to_json())  # JSON round trip, as for the stored outcome
    again.items = made.items
    return Reproduction(trial, stored, again, (*changes, *_differences(stored, again)))


def _find(folder: Path, trial_id: str) -> Path:
    found = sorted((folder / "trials").glob(f"{trial_id}*")) if trial_id.isalnum() else []
    if len(found) != 1:
        raise StudyError(
            f"trial: must be the id of one trial in {str(folder)!r}, got {trial_id!r}, which matches "
            f"{len(found)} trials; results.csv lists the ids"
        )
    return found[0]


def _versions(then: dict[str, str]) -> list[str]:
    return [f"{name} was {then.get(name)}, is {now}" for name, now in versions().items() if then.get(name) != now]


def _differences_of_code(then: Trial, now: Trial) -> list[str]:
    """Return a sentence for each user file that differs from that of a stored trial, and one if the data differ."""
    files = sorted({*then.sources, *now.sources})
    found = [f"{file} has changed" for file in files if then.sources.get(file) != now.sources.get(file)]
    return found + (["the data have changed"] if then.data != now.data else [])


def _plain(outcome: Outcome) -> str:
    items = None if outcome.items is None else outcome.items.tobytes().hex()
    return json.dumps({**outcome.to_json(), "items": items}, sort_keys=True)


def _differences(stored: Outcome, again: Outcome) -> list[str]:
    found = []
    if stored.failure != again.failure:
        found.append(f"failure was {stored.failure}, is {again.failure}")
    for name in {**stored.metrics, **again.metrics}:
        then, now = stored.metrics.get(name), again.metrics.get(name)
        if then != now and not (then != then and now != now):  # NaN equals NaN here
            found.append(f"{name} was {then!r}, is {now!r}")
    if not found and _plain(stored) != _plain(again):
        found.append("the curves or the values of single test examples differ; the final numbers are equal")
    return found
