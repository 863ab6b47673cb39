"""study.json: what the study in a folder is, read without any of the user's files."""

import json
from pathlib import Path
from typing import Any

from fallline.errors import StudyError
from fallline.lab.design.spec import Spec

FORMAT = 2  # of study.json and of the trials; 1 had no key "format"


def read_study(folder: Path, argument: str = "DIR") -> dict[str, Any]:
    """Return specification and manifest of the study in a folder.

    Args:
        folder: of the study.
        argument: where the user has named it, for the message.

    Raises:
        StudyError: there is none, or another version of this package has made it.
    """
    stored = read_json(folder / "study.json")
    if stored is None:
        raise StudyError(
            f"{argument}: must be the folder of a study (with a study.json), got {str(folder)!r}; "
            f"`fallline compare --out {folder}` makes one"
        )
    if stored.get("format") != FORMAT:
        made = "an earlier" if stored.get("format", 1) in range(FORMAT) else "a later"
        raise StudyError(
            f"{argument}: {str(folder)!r} holds a study that {made} version of Fallline made, and this version cannot "
            "use its trials; use that version of Fallline for it, or choose another --out to run the study again"
        )
    return stored


def read_spec(folder: Path, argument: str = "DIR") -> Spec:
    """Return the specification of the study in a folder, for which none of the user's files is needed.

    Raises:
        StudyError: there is no study, or another version of this package has made it.
    """
    stored = read_study(folder, argument)
    return Spec.from_json(stored["spec"], stored.get("described"))


def has_trials(folder: Path, spec: Spec) -> bool:
    """Return whether a folder holds trials of the same study, of whatever code and data."""
    try:
        stored = read_spec(folder)
    except StudyError:
        return False
    return stored.question.digest() == spec.question.digest() and any(folder.glob("trials/[!.]*"))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None when there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
