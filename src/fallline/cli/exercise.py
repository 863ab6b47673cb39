"""`fallline exercise` and `fallline reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from fallline.cli import options, show


def exercise(
    number: Annotated[int, typer.Argument(metavar="1|2|3", help="Number of the exercise.")],
    task: Annotated[str | None, typer.Option(help="Task to use instead: digits, fashion-mnist, text …")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 trials, 5 seeds; 200 steps on text.")] = False,
    steps: options.StudySteps = None,
    seed: options.StudySeed = 0,
    jobs: options.Jobs = None,
    data_dir: options.DataDir = None,
    out: options.StudyFolder = None,
) -> None:
    """Run one of three classic studies: 1 optimizers, 2 schedules, 3 warm-up of a transformer.

    Each exercise is an ordinary study. Exercises 1 and 2 use CIFAR-10 and exercise 3 a post-norm transformer on text,
    unless --task is given.
    """
    from fallline.lab.comparison import compare
    from fallline.lab.exercises import QUICK_STEPS, get_exercise
    from fallline.lab.tasks import open_task

    chosen, effort = get_exercise(number), options.QUICK if quick else options.STANDARD
    options.keep_data_in(data_dir)
    learned = options.resolve_task(task or chosen.task)
    open_task(learned)  # report a mistyped task before printing anything
    show.console.print(chosen.question, style="bold")
    study = compare(
        learned,
        chosen.optimizers,
        chosen.schedules,
        vary=chosen.vary,
        baseline=chosen.baseline,
        trials=effort.trials,
        seeds=effort.seeds,
        steps=QUICK_STEPS.get(learned) if quick and steps is None else steps,
        seed=seed,
        jobs=jobs,
        out=out,
    )
    show.verdict(study)
    show.stability(study)
    show.path("report", study.report(study.store.folder / "report.html"))


def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
    trial: Annotated[str, typer.Option(help="Id of the trial, or its first characters; results.csv lists the ids.")],
) -> None:
    """Rerun one trial of a study and compare every number; the exit code is 1 if any of them differs."""
    from fallline.lab.run.reproduce import reproduce as run_again

    found = run_again(folder, trial)
    show.console.print(f"{found.trial.arm}, {found.trial.stage} trial {found.trial.id}", style="bold")
    for change in found.changes:
        show.console.print(f"! {change}", style="yellow", markup=False)
    show.console.print("every number is the same" if found.equal else "the outcome differs")
    if not found.equal:
        raise typer.Exit(1)
