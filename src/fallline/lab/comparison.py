"""Run a study: build its specification, run the missing trials, and time the arms."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentTypeError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.contract.preflight import check_anew, notes
from fallline.lab.design.group_sequential import Seeds
from fallline.lab.design.spec import Spec
from fallline.lab.display import Display, describe_left, open_display
from fallline.lab.executors import Workers, count_workers, make_executor
from fallline.lab.provenance.identity import describe_study, identify
from fallline.lab.provenance.manifest import manifest
from fallline.lab.run.live_trial import LiveTrial
from fallline.lab.run.timing import time_arms
from fallline.lab.specify import default_folder, specify
from fallline.lab.stages import Callback, Progress, read_results, read_timings, run_stages, write_timings
from fallline.lab.storage.store import Store
from fallline.lab.study import Study
from fallline.lab.tasks import Task
from fallline.lab.tasks.own_loop import CommandTask
from fallline.lab.user_code.import_path import is_here
from fallline.lab.user_code.sources import unchanged

# The timing pass takes this fraction of the run time of the study, but no less and no more than these seconds.
_TIMING_SHARE, _TIMING_SECONDS = 0.03, (0.5, 20.0)


def _time(study: StudyResults, store: Store) -> StudyResults:
    """Time the selected configurations of all arms, interleaved, while no trial of the study is running."""
    spent = sum(study.costs[trial.id].seconds for trial in study.trials if trial.id in study.costs)
    shortest, longest = _TIMING_SECONDS
    seconds = min(longest, max(shortest, _TIMING_SHARE * spent))
    timed = {arm: trials[0] for arm in study.searches if (trials := study.confirmation_trials(arm))}
    files = {file: digest for trial in timed.values() for file, digest in trial.sources.items()}
    with unchanged(files, "The timing of the arms"):
        # A configuration whose confirmation run failed may raise the same error here.
        write_timings(store, time_arms(timed, seconds, skip_errors=True))
    return replace(study, timings=read_timings(store))


def run_comparison(
    spec: Spec,
    out: str | Path | None,
    workers: Workers,
    baseline: str | None = None,
    margin: float | None = None,
    *,
    fork: bool = False,
    progress: bool | Callable[[Progress], None] | None = True,
    callbacks: Iterable[Callback] = (),
) -> Study:
    """Run the trials whose outcomes are missing, time the arms, write the tables, and return the study.

    The arguments are those of `compare`.

    Raises:
        StudyError: the folder holds another study; the user's files, the data or the version of torch have changed
            since the study started; or the outcomes cannot be written.
    """
    folder = Path(out) if out is not None else default_folder(spec)
    if workers["jobs"] is None and is_here(spec.task):
        workers = {**workers, "jobs": 0}  # worker processes could not import the task
    workers = share_machine(workers, spec)
    executor, store = make_executor(folder, **workers), Store(folder)
    spec = identify(spec)
    baseline = spec.arm_name(baseline or spec.arms[0].name, "baseline")
    analysis = {"baseline": baseline, "margin": margin}
    found = manifest() | notes(spec.learning)
    forked = store.claim(spec, analysis, found, fork, describe_study(spec))
    if forked and not spec.learning.own_loop:
        check_anew(spec.task, spec.learning)
    if not callable(progress) and progress not in (True, False, None):
        raise ArgumentTypeError(f"progress: must be True, False or a function, got {progress!r}; leave it out")
    with open_display("starting workers", shown=progress is True) as display:
        with executor:
            study = read_results(store, spec, baseline, margin)
            report = progress if callable(progress) else functools.partial(_show, display)
            parallel = None if workers["ray"] else count_workers(**workers)
            study = run_stages(study, store, executor, report, tuple(callbacks), parallel)
        if not study.timings and not spec.learning.own_loop:
            display.stage("timing the arms")
            study = _time(study, store)
        store.write_tables(study.trials)
    return Study(study, store)


def share_machine(workers: Workers, spec: Spec) -> Workers:
    """Return the workers with one job if the study runs a command and nothing else limits its number of runs.

    A command may use all cores of this machine. On Ray, it uses what it has asked for.
    """
    limited = workers["jobs"] is not None or workers["devices"] or workers["ray"] is not None
    return workers if limited or not isinstance(spec.learning, CommandTask) else {**workers, "jobs": 1}


def _show(display: Display, found: Progress) -> None:
    display.report(found.stage, found.done, found.total, "trials", describe_left(found.seconds_left))


def compare(
    task: str | type[Task] | Callable[[LiveTrial], Any] = "digits",
    optimizers: Sequence[str] = ("momentum", "adam", "adamw"),
    schedules: Sequence[str] = ("cosine",),
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    command: str | None = None,
    variants: Mapping[str, str] | None = None,
    search: str = "",
    metric: str | None = None,
    mode: str | None = None,
    trials: int = 16,
    seeds: Seeds = (4, 16),
    searches: int = 1,
    steps: int | None = None,
    equal: str = "grad-evals",
    horizon: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    landscape: bool = False,
    jobs: int | None = None,
    devices: Sequence[str] = (),
    shard: str | None = None,
    ray: str | None = None,
    ray_resources: str = "",
    checkpoint_every: int | None = None,
    out: str | Path | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    self_check: bool = False,
    fork: bool = False,
    progress: bool | Callable[[Progress], None] | None = True,
    callbacks: Iterable[Callback] = (),
) -> Study:
    """Tune each optimizer with the same budget, confirm the result on fresh seeds, and compare the optimizers.

    To resume an interrupted study, make the same call again. Workers are separate processes: in a script, call this
    function under `if __name__ == "__main__":`.

    Args:
        task: name of a built-in task, a class decorated with `fallline.task`, a function `train(trial)` that trains and
            evaluates a model (see `fallline.trial`), or the location of such a class or function as FILE.py:NAME.
        optimizers: names as in `fallline list`, `sam(NAME)`, or the location of a class (`torch.optim:NAdam`,
            `my_file.py:Mine`). `adamw@lr=1e-4` fixes a hyperparameter, `adamw@lr=1e-5..1e-2` searches that range.
        schedules: "constant", "step", "cosine" … or FILE.py:FUNCTION. Each combination of an optimizer and a schedule
            is an arm.
        vary: other factors to compare: for each name of a hyperparameter or of a setting of the task, or for `warmup`,
            the values to try.
        settings: settings of the task that differ from their defaults, by name.
        command: instead of a task, a command that trains and evaluates a model, with placeholders such as {lr} and
            {seed} that are filled in for every run. Settings of a command are metric_regex, metric_file, test_metric,
            timeout (in seconds), inputs (glob patterns of data files) and skip (names of checks).
        variants: arms by name, each with its own command, or with arguments that are added to the command.
        search: ranges of a command or a function: "lr=1e-5..1e-2:log,batch_size=32|64".
        metric: the metric that a command prints or a function reports, "val_loss" by default.
        mode: "min" or "max"; by default as the name of the metric implies.
        trials: search points per arm, rounded to a power of two. The default configuration is run in addition.
        seeds: confirmation runs per arm, at least 2; or (fewest, most), in which case the study examines its results
            after the fewest seeds and after every fourth further seed, and stops when every comparison is decided.
        searches: independent searches per arm.
        steps: optimizer steps per run; by default those of the task.
        equal: what is the same for all arms besides the number of trials. "grad-evals": the gradient evaluations per
            run, so arms whose steps take more of them make fewer steps. "steps": the steps per run. "trials": nothing.
        horizon: length of the tuning runs as a fraction of the full length.
        seed: seed from which every other seed is derived.
        device: device on which trials run: "cpu", "cuda:0".
        landscape: measure the curvature at the start, in the middle and at the end of the confirmation runs.
        jobs: worker processes; by default one per core, or a single one on an accelerator. 0 runs all trials in this
            process, which is required for a class defined in a notebook.
        devices: GPUs such as ("cuda:0", "cuda:1"); one worker runs on each and sees it as cuda:0.
        shard: "2/8" runs the second of eight shares of the trials and waits for the others.
        ray: address of a Ray cluster to run on.
        ray_resources: what a trial occupies on the cluster, "CPU=4,GPU=1"; by default a core, and a GPU if `device` is
            one. A command sees the GPUs that it occupies, and as many threads (OMP_NUM_THREADS) as cores.
        checkpoint_every: number of steps between checkpoints of a run, from which an interrupted run can resume.
        out: folder of the study; by default one under `fallline-runs` whose name is derived from the specification.
        baseline: the arm that the others are compared with; the first by default.
        margin: difference below which arms count as equivalent, relative to the baseline's mean (0.02 is 2 %).
        self_check: run the first arm under two names with disjoint seeds: an A/A test, which should find no difference.
        fork: use a folder that holds a study with another specification, other code or other data, and reuse the
            trials that are equal.
        progress: True shows the progress on stderr: a bar in a terminal, a line in a notebook, and otherwise one line
            per stage. False or None shows nothing. A function is called after every trial with the progress instead.
        callbacks: functions, each of which is called after every trial with the trial and its outcome.

    Raises:
        ArgumentError: an argument is invalid.
        StudyError: the folder cannot be written, or holds another study; the task breaks its contract.
    """
    device = "cuda:0" if devices else device
    with open_display("checking the task", shown=progress is True):
        spec = specify(
            task,
            optimizers,
            schedules,
            vary=vary,
            settings=settings,
            loop={"command": command, "search": search, "metric": metric, "mode": mode},
            variants=variants,
            self_check=self_check,
            steps=steps,
            trials=trials,
            seeds=seeds,
            searches=searches,
            equal=equal,
            horizon=horizon,
            seed=seed,
            device=device,
            landscape=landscape,
            out=out,
            baseline=baseline,
            margin=margin,
        )
    workers = Workers(
        jobs=jobs,
        shard=shard,
        ray=ray,
        checkpoint_every=checkpoint_every,
        device=device,
        devices=devices,
        ray_resources=ray_resources,
    )
    return run_comparison(spec, out, workers, baseline, margin, fork=fork, progress=progress, callbacks=callbacks)
