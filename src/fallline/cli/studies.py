"""Commands for prepared studies: `fallline exercise` and `fallline survey`; and `fallline reproduce`."""

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


def survey(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK", help="At least three tasks; eight by default."),
    ] = None,
    optimizers: Annotated[
        str | None, typer.Option(help="Comma-separated arms, as for compare; by default twelve optimizers.")
    ] = None,
    schedules: Annotated[str, typer.Option(help="Comma-separated schedules.")] = "cosine",
    length: Annotated[float, typer.Option(help="Steps per run, as a fraction of the default of each task.")] = 1.0,
    trials: Annotated[int, typer.Option(help="Search points per arm and task.")] = 8,
    seeds: Annotated[int, typer.Option(help="Confirmation seeds per arm and task.")] = 5,
    seed: options.StudySeed = 0,
    jobs: options.Jobs = None,
    shard: Annotated[str | None, typer.Option(help="I/N: run the I-th of N shares of the trials.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Comma-separated formats of the page: html, md, csv, png, svg, pdf.")
    ] = "html",
    data_dir: options.DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder of the survey.")] = Path("fallline-runs/survey"),
) -> None:
    """Compare the same optimizers on several tasks, with the same budget on each, and write a page about all of them.

    The study of each task is in OUT/TASK, the page is OUT/survey.html. Rerun the same command to resume an
    interrupted survey.
    """
    from fallline.lab import surveys
    from fallline.lab.report.formats import check_formats
    from fallline.lab.report.survey import write_survey
    from fallline.lab.report.survey.page import survey_document

    check_formats(options.split(formats))
    options.keep_data_in(data_dir)
    studies = surveys.survey(
        tasks or surveys.TASKS,
        options.split(optimizers) if optimizers else surveys.OPTIMIZERS,
        options.split(schedules),
        length=length,
        trials=trials,
        seeds=seeds,
        seed=seed,
        jobs=jobs,
        shard=shard,
        out=out,
    )
    records = [study.record for study in studies]
    document = survey_document(records)
    show.console.print(document.headline, style="bold")
    for _, sentence in document.verdicts:
        show.say(sentence, "• ")
    for study in studies:
        show.path(study.spec.task, study.report(study.store.folder / "report.html"))
    for path in write_survey(records, out, options.split(formats), document):
        show.path(path.name, path)


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
