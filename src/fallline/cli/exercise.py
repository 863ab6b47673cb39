"""`fallline exercise` and `fallline reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from fallline.cli import options, show


def exercise(
    number: Annotated[int, typer.Argument(metavar="1|2|3", help="Which of them.")],
    task: Annotated[str | None, typer.Option(help="Another task: digits, fashion-mnist, text …")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 trials, 5 seeds; 200 steps on text.")] = False,
    steps: options.StudySteps = None,
    seed: options.StudySeed = 0,
    jobs: options.Jobs = None,
    data_dir: options.DataDir = None,
    out: options.StudyFolder = None,
) -> None:
    """Run one of three classic studies: 1 optimizers, 2 schedules, 3 warm-up of a transformer.

    Each is a study like any other: CIFAR-10 for 1 and 2, a post-norm transformer on text for 3, unless --task says
    otherwise.
    """
    from fallline.lab.comparison import compare
    from fallline.lab.exercises import QUICK_STEPS, get_exercise
    from fallline.lab.tasks import get_task

    chosen, effort = get_exercise(number), options.QUICK if quick else options.STANDARD
    learned = task or chosen.task
    options.keep_data_in(data_dir)
    get_task(learned)  # a mistyped one is reported before anything is printed
    show.console.print(chosen.question, style="bold")
    with show.progress_line() as progress:
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
            progress=progress,
        )
    show.verdict(study)
    show.stability(study)
    show.path("report", study.report(study.store.folder / "report.html"))


def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
    trial: Annotated[str, typer.Option(help="The trial's id, or its beginning; results.csv lists them.")],
) -> None:
    """Run one trial of a study again and compare every number; exit code 1 if one differs."""
    from fallline.lab.run.reproduce import reproduce as run_again

    found = run_again(folder, trial)
    show.console.print(f"{found.trial.arm}, {found.trial.stage} trial {found.trial.id}", style="bold")
    for change in found.changes:
        show.console.print(f"! {change}", style="yellow", markup=False)
    show.console.print("every number is the same" if found.equal else "not the same")
    if not found.equal:
        raise typer.Exit(1)
