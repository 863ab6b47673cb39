"""Verify before and after a trial that its files, versions and data are those of its specification."""

import contextlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from fallline.lab.design.trial import Trial
from fallline.lab.provenance.manifest import digest_of_data
from fallline.lab.tasks import Task, get_task
from fallline.lab.user_code.sources import code_change_error, unchanged

_MOST = 10_000  # largest number of entries of a data folder that are checked

Stamp = tuple[tuple[str, int, int], ...]  # for each data file: path, size and modification time in ns

_verified: dict[str, Stamp] = {}  # by task, settings and hash: the stamp of the files when their data had this hash


@contextlib.contextmanager
def as_specified(trial: Trial) -> Iterator[None]:
    """Check before and after the block, which runs a trial, that code, versions and data match the specification.

    Raises:
        StudyError: one of them differs.
    """
    name = f"Trial {trial.id} ({trial.arm})"
    with unchanged(trial.sources, name):
        _check_versions(trial, name)
        before = _check_data(trial, name)
        yield
        if before:
            _check_data(trial, name)


def _check_versions(trial: Trial, name: str) -> None:
    different = [f"{key} changed from {v} to {version(key)}" for key, v in trial.versions.items() if version(key) != v]
    if different:
        raise code_change_error(different, name)


def _check_data(trial: Trial, name: str) -> Stamp:
    """Check the data of a task that lists its data files; the hash is computed only if the files have changed."""
    if not trial.data:
        return ()
    task = get_task(trial.task, **trial.settings)
    stamp = _stamp(task)
    key = json.dumps([trial.task, trial.settings, trial.data], sort_keys=True)
    if stamp and _verified.get(key) != stamp:
        if digest_of_data(task) != trial.data:
            raise code_change_error(["the data were edited"], name)
        _verified[key] = stamp
    return stamp


def _stamp(task: Task) -> Stamp:
    found = []
    for path in task.data_files():
        inside = sorted(path.iterdir())[:_MOST] if path.is_dir() else [path]
        for file in inside:
            with contextlib.suppress(OSError):  # the task reports missing files
                stat = Path(file).stat()
                found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
