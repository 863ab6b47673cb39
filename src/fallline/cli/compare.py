"""`fallline compare`: tune, confirm and compare optimizers; also --dry-run and --status."""

from typing import Annotated

import typer

from fallline.cli import options, show
from fallline.errors import ArgumentError


def compare(
    task: options.TaskName = "digits",
    optimizers: Annotated[
        str, typer.Option(help="Comma-separated arms: adamw, sam(sgd), torch.optim:NAdam; adamw@lr=0.001 fixes lr.")
    ] = "momentum,adam,adamw",
    schedules: Annotated[
        str,
        typer.Option(
            help="Comma-separated schedules: constant, step, cosine … or FILE.py:FUNCTION. Each optimizer with each "
            "schedule is an arm."
        ),
    ] = "cosine",
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B", help="Also compare values of a setting: warmup=0,0.05 or batch_size=64,256."),
    ] = None,
    settings: options.Settings = None,
    text: options.TextFile = None,
    data_dir: options.DataDir = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 trials, 5 seeds.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="32 trials in each of 3 searches, 10 seeds.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Time budget, for example 10m: sets trials, seeds and steps.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Search points per arm, rounded to a power of two; 16 by default.")
    ] = None,
    searches: Annotated[int | None, typer.Option(help="Independent searches per arm; 1 by default.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|FEWEST..MOST",
            help="Fresh seeds to confirm each winner on; 4..16, the default, stops when every comparison is decided.",
        ),
    ] = None,
    steps: options.StudySteps = None,
    equal: Annotated[
        str, typer.Option(help="Budget that is equal for all arms: grad-evals, steps or trials.")
    ] = "grad-evals",
    horizon: Annotated[float, typer.Option(help="Length of tuning runs, as a fraction of the full length.")] = 1.0,
    seed: options.StudySeed = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda:N to run one trial at a time on that GPU.")] = "cpu",
    devices: Annotated[
        str, typer.Option(help="GPUs, such as cuda:0,cuda:1: a worker, or a command, runs on each.")
    ] = "",
    landscape: Annotated[
        bool, typer.Option("--landscape", help="Measure the curvature of the loss during the confirmation runs.")
    ] = False,
    jobs: options.Jobs = None,
    shard: Annotated[str | None, typer.Option(help="I/N: run the I-th of N shares of the trials.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run on.")] = None,
    ray_resources: Annotated[
        str, typer.Option(help="What a trial occupies on the cluster: CPU=4,GPU=1; a core by default.")
    ] = "",
    checkpoint_every: Annotated[int | None, typer.Option(help="Save a checkpoint of long runs every N steps.")] = None,
    command: Annotated[
        str | None,
        typer.Option(help="Instead of a task: a command that trains a model, with placeholders {lr}, {seed} …"),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="An arm with these further arguments, or with a command of its own."),
    ] = None,
    search: Annotated[
        str, typer.Option(help="Ranges for a command or function: lr=1e-5..1e-2:log,batch_size=32|64.")
    ] = "",
    metric: Annotated[
        str | None, typer.Option(help="Metric that the command prints or the function reports; val_loss by default.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="min or max, if the name of the metric does not imply it.")] = None,
    metric_regex: Annotated[
        str, typer.Option(help="Regular expression with one group; its last match in the output is the metric.")
    ] = "",
    metric_file: Annotated[
        str,
        typer.Option(metavar="FILE:KEY", help="JSON, JSONL or CSV file with the metric: out/{trial}.json:val_loss."),
    ] = "",
    test_metric: Annotated[str, typer.Option(help="Metric on test data that the command prints.")] = "",
    trial_timeout: Annotated[float, typer.Option(help="Time limit of a run of the command, in seconds.")] = 0.0,
    inputs: Annotated[
        str, typer.Option(help="Patterns of data files whose change makes another study: data/*.bin.")
    ] = "",
    skip_checks: Annotated[
        str, typer.Option(help="Checks of a command or function to leave out: deterministic, seed, lr.")
    ] = "",
    out: options.StudyFolder = None,
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; the first by default.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Largest difference that does not matter: 0.02 is 2 % of the baseline's mean."),
    ] = None,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="A/A test: run the first arm twice, on disjoint seeds."),
    ] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="Use a folder with a different study, code or data; equal trials are reused.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the cost and exit.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the progress of the study and exit.")] = False,
) -> None:
    """Tune each optimizer with the same budget, confirm on fresh seeds, and report which differences are significant.

    Rerun the same command to resume an interrupted study. The report is OUT/report.html.
    """
    from fallline.lab import comparison
    from fallline.lab import estimate as planning
    from fallline.lab import specify as specification
    from fallline.lab.design.group_sequential import Seeds, parse_seeds
    from fallline.lab.design.spec import Spec
    from fallline.lab.display import open_display
    from fallline.lab.executors import Workers, count_workers
    from fallline.lab.stages import read_results
    from fallline.lab.storage.store import Store
    from fallline.lab.storage.study_file import read_spec
    from fallline.lab.tasks import is_own_loop, open_task
    from fallline.lab.tasks.own_loop import CommandTask

    if status and out is not None:  # needs none of the user's files
        show.status(read_results(Store(out, writable=False), read_spec(out, "out")))
        return
    options.keep_data_in(data_dir)
    task = options.resolve_task(task)
    chosen = _effort(quick, thorough)
    given = options.parse_settings(settings or [], text)
    loop = {
        "command": command,
        "search": search,
        "metric": metric,
        "mode": mode,
        "metric_regex": metric_regex,
        "metric_file": metric_file,
        "test_metric": test_metric,
        "trial_timeout": trial_timeout,
        "inputs": inputs,
        "skip_checks": skip_checks,
    }
    task = task if command is None else CommandTask.name
    own = is_own_loop(task)
    device = "cuda:0" if devices else device  # each worker sees only its own GPU
    workers = Workers(
        jobs=jobs,
        shard=shard,
        ray=ray,
        checkpoint_every=checkpoint_every,
        device=device,
        devices=tuple(options.split(devices)),
        ray_resources=ray_resources,
    )

    def specify(trials: int, seeds: Seeds, share: float = 1.0) -> Spec:
        full = steps if steps is not None or own else open_task(task, **given).steps
        return specification.specify(
            task,
            options.split(optimizers),
            options.split(schedules),
            vary=options.parse_variations(vary or []),
            settings=given,
            loop=loop,
            variants=options.parse_variants(arm or []),
            self_check=self_check,
            steps=None if full is None else round(full * share),
            trials=trials,
            seeds=seeds,
            searches=chosen.searches if searches is None else searches,
            equal=equal,
            horizon=horizon,
            seed=seed,
            device=device,
            landscape=landscape,
            out=out,
            baseline=baseline,
            margin=margin,
            examined=status,
        )

    if budget is not None and (quick or thorough or trials is not None or seeds is not None):
        raise ArgumentError(
            "budget: must be given without quick, thorough, trials or seeds, got some of them; leave them out"
        )
    if budget is not None and own:
        raise ArgumentError(
            "budget: must be left out for a training loop of your own, got a time; choose trials and seeds, and see "
            "with --dry-run what they cost"
        )
    if command is not None and not status:
        show.note("checking the command with up to four runs before the first trial")
    with open_display("checking the task"):
        if budget is None:
            size = (chosen.trials if trials is None else trials, chosen.seeds if seeds is None else parse_seeds(seeds))
            spec = specify(*size)
        else:
            seconds = planning.parse_duration(budget)
            spec, out = planning.fit_to_budget(specify, seconds, count_workers(**workers), out)
    if status:
        folder = out or specification.default_folder(spec)
        show.status(read_results(Store(folder, writable=False), read_spec(folder, "out"), baseline, margin))
        return
    if dry_run:
        count = count_workers(**comparison.share_machine(workers, spec))
        with open_display("timing the arms"):
            expected = planning.preview(spec, count)
        show.estimate(spec, expected, count)
        return
    study = comparison.run_comparison(spec, out, workers, baseline, margin, fork=fork)
    show.verdict(study)
    show.path("report", study.report(study.store.folder / "report.html"))


def _effort(quick: bool, thorough: bool) -> options.Effort:
    if quick and thorough:
        raise ArgumentError("quick, thorough: only one can be given, got both; leave one out")
    return options.QUICK if quick else options.THOROUGH if thorough else options.STANDARD
