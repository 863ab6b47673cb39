"""Read study.json, the specification of a study; this needs none of the user's files."""

import json
import shlex
from pathlib import Path
from typing import Any

from fallline.errors import StudyError
from fallline.lab.design.spec import Spec

FORMAT = 2  # version of study.json and trial.json; version 1 had no key "format"


def read_study(folder: Path, argument: str = "DIR") -> dict[str, Any]:
    """Return the specification and the manifest of the study in a folder.

    Args:
        folder: folder of the study.
        argument: name of the argument that holds the folder, for error messages.

    Raises:
        StudyError: the folder holds no study, or a study of an incompatible version of this package.
    """
    stored = read_json(folder / "study.json")
    if stored is None:
        raise StudyError(
            f"{argument}: must be the folder of a study (with a study.json), got {str(folder)!r}; "
            f"`{shlex.join(['fallline', 'compare', '--out', str(folder)])}` creates one"
        )
    if stored.get("format") != FORMAT:
        made = "an earlier" if stored.get("format", 1) in range(FORMAT) else "a later"
        raise StudyError(
            f"{argument}: {str(folder)!r} holds a study of {made} version of Fallline, and this version cannot read "
            "its trials; use that version of Fallline, or choose another --out to run the study again"
        )
    return stored


def read_spec(folder: Path, argument: str = "DIR") -> Spec:
    """Return the specification of the study in a folder; this needs none of the user's files.

    Raises:
        StudyError: the folder holds no study, or a study of an incompatible version of this package.
    """
    stored = read_study(folder, argument)
    return Spec.from_json(stored["spec"], stored.get("described"))


def has_trials(folder: Path, spec: Spec) -> bool:
    """Return whether a folder holds trials of the same study, ignoring differences in code and data."""
    try:
        stored = read_spec(folder)
    except StudyError:
        return False
    return stored.question.digest() == spec.question.digest() and any(folder.glob("trials/[!.]*"))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if the file cannot be read as a JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
