"""Run a trial and record every result as an outcome, including errors raised by the user's code."""

import errno
import re
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from fallline.errors import FalllineError, StudyError
from fallline.lab.design.outcome import Costs, Failure, Outcome
from fallline.lab.design.trial import Trial
from fallline.lab.run.loop import Checkpoint, Training
from fallline.lab.run.own_loop import run_command, run_function
from fallline.lab.run.trial import costs, finish, last_metrics, outcome, start
from fallline.lab.tasks import get_task
from fallline.lab.tasks.own_loop import CommandTask, FunctionTask
from fallline.lab.user_code.import_path import describe, is_here, place_of

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class Attempt(NamedTuple):
    """The result of running a trial.

    Attributes:
        outcome, costs: as returned by `fallline.lab.run.trial.run`.
        traceback: traceback of the error that ended the trial, with the paths of this machine; "" if there was none.
        output: what the command of the trial printed; "" if it is no command.
    """

    outcome: Outcome
    costs: Costs
    traceback: str = ""
    output: str = ""


def attempt(trial: Trial, checkpoint: Checkpoint | None = None) -> Attempt:
    """Run a trial; an error raised by its task, loss or optimizer counts as a failure of this trial only.

    Args:
        trial: the specification.
        checkpoint: see `fallline.lab.run.trial.run`.

    Raises:
        FalllineError: the trial cannot be set up, or its task violates the contract of the lab.
        OSError: the disk is full.
    """
    began, training = time.perf_counter(), None
    task = get_task(trial.task, split_seed=trial.split, **trial.settings)
    try:
        if isinstance(task, CommandTask):
            made, spent, output = run_command(trial, task)
            return Attempt(made, spent, output=output)
        if isinstance(task, FunctionTask):
            return Attempt(*run_function(trial, task))
        training = start(trial)
        return Attempt(*finish(trial, training, checkpoint, began))
    except Exception as error:
        if ends_study(error, training is not None):
            raise
        return _failed(trial, training, began, error)


def ends_study(error: Exception, started: bool) -> bool:
    """Return whether an error in a trial concerns the whole study and not just this trial.

    Args:
        error: the error.
        started: whether the trial was set up successfully, which means that its specification is valid.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    return isinstance(error, StudyError if started else FalllineError)


def _failed(trial: Trial, training: Training | None, began: float, error: Exception) -> Attempt:
    """Return the failure of a trial that raised an error, with everything its training recorded before the error."""
    step = len(training.losses) if training is not None else 0
    files = [Path(file).resolve() for file in trial.sources if not is_here(file)]
    cause = _without_addresses(describe(error, *files))
    source = f"{type(error).__name__} ({place_of(error, *files)})"
    failure: Failure = {"state": "error", "step": step, "cause": cause, "source": source}
    text = "".join(traceback.format_exception(error))
    if training is None:
        spent = Costs(time.perf_counter() - began, 0.0, 0.0, 0)
        return Attempt(Outcome(failure, {"spikes": 0}, []), spent, text)
    return Attempt(outcome(training, failure, last_metrics(training)), costs(training, began), text)


def _without_addresses(text: str) -> str:
    """Remove the addresses of objects from a message, because they differ between processes."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
