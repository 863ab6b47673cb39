"""Whether a trial runs as specified: with the files, versions and data of its specification, before and after."""

import contextlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from fallline.lab.design.trial import Trial
from fallline.lab.provenance.manifest import digest_of_data
from fallline.lab.tasks import Task, get_task
from fallline.lab.user_code.sources import changed, unchanged

_MOST = 10_000  # entries of a folder of data that are looked at

Stamp = tuple[tuple[str, int, int], ...]  # of each file of data: path, size and time of the last change in ns

_verified: dict[str, Stamp] = {}  # by task, settings and hash: how the files were when their data had that hash


@contextlib.contextmanager
def as_specified(trial: Trial) -> Iterator[None]:
    """Run a trial within, and see before and after that its code, versions and data are those of its specification.

    Raises:
        StudyError: something is not.
    """
    name = f"Trial {trial.id} ({trial.arm})"
    with unchanged(trial.sources, name):
        _check_versions(trial, name)
        before = _check_data(trial, name)
        yield
        if before:
            _check_data(trial, name)


def _check_versions(trial: Trial, name: str) -> None:
    different = [f"{key} was {v}, is {version(key)}" for key, v in trial.versions.items() if version(key) != v]
    if different:
        raise changed(different, name)


def _check_data(trial: Trial, name: str) -> Stamp:
    """Check the data of a task that says which files it reads; their hash is computed when the files have changed."""
    if not trial.data:
        return ()
    task = get_task(trial.task, **trial.settings)
    stamp = _stamp(task)
    key = json.dumps([trial.task, trial.settings, trial.data], sort_keys=True)
    if stamp and _verified.get(key) != stamp:
        if digest_of_data(task) != trial.data:
            raise changed(["the data were edited"], name)
        _verified[key] = stamp
    return stamp


def _stamp(task: Task) -> Stamp:
    found = []
    for path in task.data_files():
        inside = sorted(path.iterdir())[:_MOST] if path.is_dir() else [path]
        for file in inside:
            with contextlib.suppress(OSError):  # the task will say what is missing
                stat = Path(file).stat()
                found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
