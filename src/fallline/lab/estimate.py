"""Estimate the cost of a study before it runs, and find the largest study that fits a time budget."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fallline.errors import ArgumentError, FalllineError, StudyError
from fallline.lab.design.outcome import Timing
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.own_study import examine_own
from fallline.lab.run.timing import time_arms
from fallline.lab.search.selection import AGAIN, Search, finalists
from fallline.lab.search.trials import ROUNDS, makes_fewer_steps, tune, tuning_trials
from fallline.lab.specify import default_folder
from fallline.lab.storage.study_file import read_spec
from fallline.lab.user_code.import_path import describe

_PREVIEW_SECONDS = 2.0  # duration of the measurement of all arms
START_S = 4.0  # seconds until the workers have started
_ROW_BYTES, _TRIAL_BYTES = 130, 2500  # JSON size of one row of a curve or trace, and of the rest of a trial

# Trials, seeds and fraction of the steps, from the largest study to the smallest. Each study has a fixed number of
# seeds, so that its duration can be predicted.
_LADDER = (
    (32, 10, 1.0),
    (16, 8, 1.0),
    (8, 8, 1.0),
    (8, 5, 1.0),
    (8, 5, 0.5),
    (4, 5, 0.5),
    (4, 5, 0.25),
    (4, 3, 0.25),
    (2, 3, 0.125),
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a study.

    Attributes:
        trials: smallest number of trials (no extension of a range, fewest seeds) and largest number.
        seconds: expected duration for these two numbers of trials with the given number of workers.
        bytes: disk space, with all extensions.
    """

    trials: tuple[int, int]
    seconds: tuple[float, float]
    bytes: int


def parse_duration(text: str) -> float:
    """Return the seconds in "90s", "10m" or "1.5h".

    Raises:
        ArgumentError: the text has none of these forms, or the duration is 0.

    Example:
        >>> parse_duration("10m")
        600.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise ArgumentError(f"budget: must be a time above 0 like 90s, 10m or 1.5h, got {text!r}")
    return float(match[1]) * _UNITS[match[2]]


class RunTiming(Protocol):
    """The duration of the runs of an arm."""

    def seconds(self, trial: Trial) -> float:
        """Return the expected seconds of a trial."""


@dataclass(frozen=True)
class LoopTiming:
    """The duration of the runs of a training loop of the user, measured on one run.

    Attributes:
        full: seconds of a run of the length that the study asks for.
        steps: this length in steps; 0 if the loop decides.
    """

    full: float
    steps: int

    def seconds(self, trial: Trial) -> float:
        """Return the expected seconds of a trial, proportional to its steps."""
        return self.full * (trial.steps / self.steps if self.steps else 1.0)


def estimate(spec: Spec, timings: Mapping[str, RunTiming], workers: int) -> Estimate:
    """Return the expected cost of a study, given the timings of its arms and the number of trials run in parallel."""
    _, searches = tune(spec, {})
    least = [_seconds(spec, search, timings[arm], 0, spec.looks[0]) for arm, search in searches.items()]
    most = [_seconds(spec, search, timings[arm], ROUNDS, spec.looks[-1]) for arm, search in searches.items()]
    counts = (sum(len(seconds) for seconds in least), sum(len(seconds) for seconds in most))
    times = tuple(START_S + sum(map(sum, seconds)) / min(workers, counts[0]) for seconds in (least, most))
    trace = 100  # approximate number of rows, independent of the number of steps
    size = counts[1] * (_TRIAL_BYTES + _ROW_BYTES * (spec.evaluations + trace))
    return Estimate(counts, (times[0], times[1]), size)


def measure(spec: Spec, seconds: float) -> dict[str, Timing]:
    """Return the timing of the default configuration of each arm; measuring all of them takes about `seconds`.

    Raises:
        StudyError: the task, the loss or an optimizer raises an error.
    """
    _, searches = tune(spec, {})
    trials = {arm: tuning_trials(spec, search)[0] for arm, search in searches.items()}
    try:
        return time_arms(trials, seconds)
    except FalllineError:
        raise
    except Exception as error:
        raise StudyError(f"task {spec.task}: must run without an error, got {describe(error)}; fix it") from error


def preview(spec: Spec, workers: int) -> Estimate:
    """Return the expected cost of a study with this number of workers, from a short measurement of its arms.

    The runs of a training loop of the user are timed by the checks of its contract.
    """
    if spec.learning.own_loop:
        timing = LoopTiming(examine_own(spec).seconds, spec.steps)
        return estimate(spec, {arm.name: timing for arm in spec.arms}, workers)
    return estimate(spec, measure(spec, _PREVIEW_SECONDS), workers)


def fit(make_spec: Callable[[int, int, float], Spec], seconds: float, workers: int) -> Spec:
    """Return the largest study that is expected to finish within a time budget if no range is extended.

    Args:
        make_spec: returns the specification for a number of trials, a number of seeds and a fraction of the task's
            steps.
        seconds: time budget.
        workers: number of trials that run at the same time.

    Raises:
        ArgumentError: not even the smallest study fits.
    """
    timings = measure(make_spec(*_LADDER[0]), min(10.0, 0.03 * seconds))
    needed = 0.0
    for rung in _LADDER:
        try:
            spec = make_spec(*rung)
        except ArgumentError:  # the runs would have too few steps for a curve
            continue
        needed = estimate(spec, timings, workers).seconds[0]
        if needed <= seconds:
            return spec
    raise ArgumentError(
        f"budget: must suffice for {_LADDER[-1][0]} trials and {_LADDER[-1][1]} seeds per arm at an eighth of the "
        f"steps, about {needed:.0f}s, got {seconds:.0f}s; compare fewer arms or pass a larger budget"
    )


def fit_to_budget(
    make_spec: Callable[[int, int, float], Spec], seconds: float, workers: int, out: Path | None
) -> tuple[Spec, Path]:
    """Return the largest study that fits a time budget, and its folder; if the folder holds one already, return that.

    The size of a study depends on the speed of the machine when it started, so a later call must not choose it again.
    """
    largest = make_spec(*_LADDER[0])
    folder = out or default_folder(largest).with_name(f"{default_folder(largest).name}-{seconds:.0f}s")
    if (folder / "study.json").exists():
        kept = read_spec(folder).question.digest()
        for rung in _LADDER:
            with contextlib.suppress(ArgumentError):
                if (spec := make_spec(*rung)).question.digest() == kept:
                    return spec, folder
    return fit(make_spec, seconds, workers), folder


def _seconds(spec: Spec, search: Search, timing: RunTiming, rounds: int, seeds: int) -> list[float]:
    """Return the expected seconds of every trial of an arm for these numbers of extension rounds and seeds."""
    trials = tuning_trials(spec, search)
    extensions = rounds * spec.searches * max(1, spec.trials // 2) if search.ranges else 0
    tuning = [timing.seconds(trial) for trial in trials]
    stages = ["confirm", "equal-steps"] if makes_fewer_steps(spec, search.arm) else ["confirm"]
    runs = [
        timing.seconds(replace(trials[0], steps=spec.steps_of(search.arm, stage)))
        for stage in stages
        for _ in range(seeds)
    ]
    again = AGAIN * finalists(spec.trials) if search.ranges else 0
    return tuning + tuning[-1:] * (extensions + again) + runs
