"""`fallline compare`: its options, and what --dry-run and --status print."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from fallline.cli import show
from fallline.errors import ArgumentError


@dataclass(frozen=True)
class Effort:
    """How much tuning and confirming an arm gets: search points, independent searches, seeds."""

    trials: int
    searches: int
    seeds: int | tuple[int, int]


QUICK, STANDARD, THOROUGH = Effort(8, 1, 5), Effort(16, 1, (4, 16)), Effort(32, 3, 10)


class Place(TypedDict):
    """Where trials run: the options that decide how many do at a time."""

    jobs: int | None
    shard: str | None
    ray: str | None
    device: str


def compare(
    task: Annotated[str, typer.Argument(help="A built-in task (see `fallline list`), or FILE.py:NAME.")] = "digits",
    optimizers: Annotated[
        str, typer.Option(help="Arms, by comma: adamw, sam(sgd), torch.optim:NAdam; adamw@lr=0.001 fixes.")
    ] = "momentum,adam,adamw",
    schedules: Annotated[
        str, typer.Option(help="constant, step, cosine … or FILE.py:FUNCTION, by comma; each makes arms of its own.")
    ] = "cosine",
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=A,B", help="What else is compared: warmup=0,0.05 or batch_size=64,256."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the task for all arms: batch_size=128."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="The FILE that the tasks text and text-post learn.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets are, or shall be put.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 trials, 5 seeds.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="32 trials in each of 3 searches, 10 seeds.")] = False,
    budget: Annotated[str | None, typer.Option(help="The time there is, 10m: fits trials, seeds, steps.")] = None,
    trials: Annotated[int | None, typer.Option(help="Search points an arm, a power of two; 16 by default.")] = None,
    searches: Annotated[int | None, typer.Option(help="Independent searches an arm; 1 by default.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|FEWEST..MOST",
            help="Fresh seeds to confirm each winner on; 4..16, the default, stops when every comparison is decided.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps a run; the task's by default.")] = None,
    equal: Annotated[str, typer.Option(help="What arms share: grad-evals, steps or trials.")] = "grad-evals",
    horizon: Annotated[float, typer.Option(help="Length of tuning runs, as part of the full length.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides every random number of the study.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda:N for one trial at a time there.")] = "cpu",
    landscape: Annotated[
        bool, typer.Option("--landscape", help="Measure the curvature along the confirmation runs.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Worker processes, one a core by default; 0: this process.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: run the I-th of N shares of the trials.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run on.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Save long runs every so many steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; named by its specification by default.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; the first by default.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Difference that does not matter, relative to the baseline's mean: 0.02 is 2 %."),
    ] = None,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="A/A test: run the first arm twice, on disjoint seeds."),
    ] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="Use a folder whose study, code or data differ; reuse equal trials.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
) -> None:
    """Tune each optimizer with the same budget, confirm on fresh seeds, and say what can be said.

    The same command completes a study that was interrupted. The report is OUT/report.html.
    """
    from fallline.lab import comparison
    from fallline.lab import estimate as planning
    from fallline.lab.design.sequential import Seeds, parse_seeds
    from fallline.lab.design.spec import Spec, check_analysis
    from fallline.lab.executors import count_workers, make_executor
    from fallline.lab.stages import read_results
    from fallline.lab.storage.store import Store
    from fallline.lab.storage.study_file import read_spec
    from fallline.lab.tasks import get_task

    if status and out is not None:  # which needs none of the user's files
        show.status(read_results(Store(out, writable=False), read_spec(out, "out")))
        return
    keep_data_in(data_dir)
    chosen = _effort(quick, thorough)
    given = parse_settings(settings or [], text)
    place: Place = {"jobs": jobs, "shard": shard, "ray": ray, "device": device}

    def specify(trials: int, seeds: Seeds, share: float = 1.0) -> Spec:
        full = get_task(task, **given).steps if steps is None else steps
        return comparison.specify(
            task,
            split(optimizers),
            split(schedules),
            vary=parse_variations(vary or []),
            settings=given,
            self_check=self_check,
            steps=steps if steps is not None and share == 1 else max(1, round(full * share)),
            trials=trials,
            seeds=seeds,
            searches=chosen.searches if searches is None else searches,
            equal=equal,
            horizon=horizon,
            seed=seed,
            device=device,
            landscape=landscape,
            out=out,
            examined=status,
        )

    if budget is None:
        size = (chosen.trials if trials is None else trials, chosen.seeds if seeds is None else parse_seeds(seeds))
        spec = specify(*size)
    else:
        if quick or thorough or trials is not None or seeds is not None:
            raise ArgumentError("budget: decides trials, seeds and steps, got some of them too; leave them out")
        seconds = planning.parse_duration(budget)
        spec, out = planning.fitted(specify, seconds, count_workers(**place), out)
    check_analysis(spec, baseline, margin)
    folder = out or comparison.default_folder(spec)
    if status:
        show.status(read_results(Store(folder, writable=False), read_spec(folder, "out"), baseline, margin))
        return
    executor = make_executor(folder, checkpoint_every=checkpoint_every, **place)
    if dry_run:
        workers = count_workers(**place)
        show.estimate(spec, planning.estimate(spec, planning.measure(spec, 2.0), workers), workers)
        return
    store = Store(folder)
    with show.progress_line() as progress:
        study = comparison.run_study(
            spec, store, executor, baseline=baseline, margin=margin, fork=fork, progress=progress
        )
    show.verdict(study)
    show.path("report", study.report(study.store.folder / "report.html"))


def _effort(quick: bool, thorough: bool) -> Effort:
    if quick and thorough:
        raise ArgumentError("quick, thorough: one of them can be given, got both; leave one out")
    return QUICK if quick else THOROUGH if thorough else STANDARD


def keep_data_in(folder: Path | None) -> None:
    """Let this process and its workers look for data in a folder."""
    from fallline.folders import DATA_VARIABLE

    if folder is not None:
        os.environ[DATA_VARIABLE] = str(folder.resolve())


def split(text: str) -> list[str]:
    """Return the parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_variations(texts: Sequence[str]) -> Mapping[str, list[Any]]:
    """Return the values by name of NAME=VALUE,VALUE texts."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if len(split(values)) < 2:
            raise ArgumentError(
                f"vary: must be NAME=VALUE,VALUE… with two values or more, got {text!r}; "
                "for example --vary warmup=0,0.05"
            )
        _once("vary", name, found)
        found[name] = [_value(part) for part in split(values)]
    return found


def parse_settings(texts: Sequence[str], file: Path | None) -> Mapping[str, Any]:
    """Return the settings of NAME=VALUE texts, and `text` for --text."""
    found: dict[str, Any] = {} if file is None else {"text": str(file)}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(f"set: must be NAME=VALUE, got {text!r}; for example --set batch_size=128")
        _once("set", name, found)
        found[name] = _value(value)
    return found


def _once(option: str, name: str, found: Mapping[str, Any]) -> None:
    if name in found:
        raise ArgumentError(f"{option}: each name must be given once, got {name} twice; leave one of them out")


def _value(text: str) -> Any:
    """Return a whole number, a number, True or False, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
