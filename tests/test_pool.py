"""The pool of workers: errors come back, dead workers are replaced, and nobody waits for ever."""

import errno
from pathlib import Path

import pytest

from fallline.errors import StudyError
from fallline.lab.arms import make_arms
from fallline.lab.executors import local
from fallline.lab.plan import tune
from fallline.lab.spec import Spec
from fallline.lab.store import Store

TRIAL = tune(Spec("digits", 40, make_arms(["adam"], ["cosine"]), 1, 2), {})[0][0]


def test_a_full_disk_ends_the_study_with_one_sentence(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "save", full)
    error = local._run(TRIAL, tmp_path)
    assert isinstance(error, StudyError)
    assert "out: finished trials must be written" in str(error) and "No space left on device; make room" in str(error)


def test_an_error_of_a_trial_is_given_back(tmp_path):
    broken = type(TRIAL)(**{**vars(TRIAL), "optimizer": "sdg"})
    with local.LocalPool(tmp_path, 1) as pool, pytest.raises(ValueError, match="got 'sdg'"):
        list(pool.run([broken]))
    assert pool._workers == []


def test_a_worker_that_dies_is_replaced_twice_and_then_given_up(tmp_path, monkeypatch):
    started = []

    def start(self, trial):
        """Start a worker that has died already."""
        parent, child = local.multiprocessing.Pipe()
        child.close()
        process = local.multiprocessing.get_context("spawn").Process(target=Path.cwd, daemon=True)
        process.start()
        started.append(trial)
        self._workers.append(local._Worker(process, parent, trial))

    monkeypatch.setattr(local.LocalPool, "_start", start)
    with local.LocalPool(tmp_path, 1) as pool, pytest.raises(StudyError, match="got 3 killed in trial"):
        list(pool.run([TRIAL]))
    assert started == [TRIAL] * 3
