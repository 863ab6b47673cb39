"""A survey: the same arms on several tasks, with one study per task and the same budget on each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.analysis.several_tasks import LEAST
from fallline.lab.comparison import compare
from fallline.lab.contract.preflight import RUNS
from fallline.lab.study import Study
from fallline.lab.tasks import find_task, open_task
from fallline.lab.user_code.import_path import folder_name

TASKS = (
    "breast-cancer",
    "diabetes",
    "digits",
    "digits-cnn",
    "digits-autoencoder",
    "digits-diffusion",
    "text-gru",
    "text",
)
OPTIMIZERS = (
    "adamw",
    "momentum",
    "adam",
    "nadamw",
    "lion",
    "lamb",
    "sam(momentum)",
    "muon",
    "schedulefree-adamw",
    "soap",
    "prodigy",
    "ademamix",
)


def survey(
    tasks: Sequence[str] = TASKS,
    optimizers: Sequence[str] = OPTIMIZERS,
    schedules: Sequence[str] = ("cosine",),
    *,
    length: float = 1.0,
    trials: int = 8,
    seeds: int = 5,
    out: str | Path = RUNS / "survey",
    **options: Any,
) -> list[Study]:
    """Compare the same arms on several tasks, and return one study per task.

    The study of a task is in the folder `out`/TASK. To resume an interrupted survey, make the same call again.

    Args:
        tasks: at least three tasks, as in `compare`.
        optimizers, schedules: the arms, as in `compare`; the first is the baseline.
        length: steps per run, as a fraction of the default of each task.
        trials, seeds: the budget per arm and task, as in `compare`.
        out: folder of the survey.
        **options: further arguments of `compare`.

    Raises:
        ArgumentError: there are fewer than three tasks, a task is given twice, the length is not above 0, or an
            argument of `compare` is invalid.
        StudyError: as for `compare`.
    """
    tasks = [find_task(task) for task in tasks]
    if len(set(tasks)) < max(LEAST, len(tasks)):
        raise ArgumentError(
            f"tasks: must be at least {LEAST} different tasks, got {', '.join(tasks) or 'none'}; leave them out for "
            f"{', '.join(TASKS)}"
        )
    if not length > 0:
        raise ArgumentError(f"length: must be above 0, got {length}; 1 is the default length of each task")
    steps = {task: max(1, round(length * open_task(task).steps)) for task in tasks}  # before the first study starts
    return [
        compare(
            task,
            optimizers,
            schedules,
            steps=steps[task],
            trials=trials,
            seeds=seeds,
            out=Path(out) / folder_name(task),
            **options,
        )
        for task in tasks
    ]
