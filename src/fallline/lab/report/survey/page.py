"""The page about several studies with the same arms on different tasks."""

import math
from collections.abc import Sequence
from pathlib import Path

from fallline.errors import ArgumentError
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.several_tasks import LEAST, TaskMeans, draw_tasks, estimate, ranks
from fallline.lab.report.document import Bullets, Document, Section, Text
from fallline.lab.report.formats import cannot_write, check_formats, write_document
from fallline.lab.report.survey import practice, profile, ranking, schedules
from fallline.lab.report.tables import Records, to_csv
from fallline.lab.storage.atomic_files import write_atomically

NAME = "survey"


def write_survey(
    studies: Sequence[StudyResults], folder: Path, formats: Sequence[str] = ("html",), document: Document | None = None
) -> list[Path]:
    """Write the page over several studies, and trials.csv with every number it rests on; return the paths.

    Each study counts as one task. Arms are compared by the mean of the headline metric over their confirmation runs. An
    arm with a failed seed has failed on the task, which counts as an infinite ratio.

    Args:
        studies: the studies; the arms that all of them have are compared.
        folder: the folder to write to; it is created if it does not exist.
        formats: "html", "md", "csv", "svg", "png" or "pdf".
        document: the page, if `survey_document` has made it already.

    Raises:
        ArgumentError: there are fewer than three studies, a study is given twice, the studies have fewer than two
            arms in common, or a result is below 0; or a format is unknown.
        StudyError: a file cannot be written.
    """
    check_formats(formats)
    try:
        paths = write_document(document or survey_document(studies), folder, formats, NAME)
        trials = folder / "trials.csv"
        write_atomically(trials, to_csv(trial_records(studies)))
    except OSError as error:
        raise cannot_write(folder, error) from None
    return [*paths, trials]


def trial_records(studies: Sequence[StudyResults]) -> Records:
    """Return one record per confirmation run: task, arm, seed, trial (for `fallline reproduce`), metric and value."""
    names, arms = _field(studies)
    rows = Records()
    for name, study in zip(names, studies, strict=True):
        for arm in arms:
            trials = study.confirmation_trials(arm)
            for seed, (trial, value) in enumerate(zip(trials, study.confirmed(arm), strict=False)):
                row = {"task": name, "arm": arm, "seed": seed, "trial": trial.id, "metric": study.headline}
                rows.append({**row, "value": math.nan if value is None else value})
    return rows


def survey_document(studies: Sequence[StudyResults]) -> Document:
    """Return the page as a document."""
    names, arms = _field(studies)
    tasks = draw_tasks(studies, arms)
    baseline = studies[0].baseline if studies[0].baseline in arms else arms[0]
    networks = [study.spec.learning.network or "own" for study in studies]
    sections = [
        profile.section(arms, tasks),
        ranking.section(arms, names, networks, tasks),
        schedules.section([arm for arm in studies[0].spec.arms if arm.name in arms], tasks),
        practice.tuning_section(studies, arms),
        practice.cost_section(studies, arms, baseline),
        Section("Arms and tasks", [Bullets(_describe(studies, names, arms)), Text(_WARNING)]),
    ]
    return Document(
        headline=_headline(arms, tasks),
        subject=f"{len(names)} tasks · {len(arms)} arms",
        arms=arms,
        verdicts=_sentences(arms, tasks),
        notes=[
            "The intervals hold for new seeds on these tasks, not for other tasks. They are not corrected for the "
            "number of arms; the report of each study tests its differences."
        ],
        warnings=[],
        sections=[section for section in sections if section is not None],
        name=NAME,
    )


_WARNING = (
    "A profile depends on the set of arms: adding or removing an arm can change the best arm of a task, and with it "
    "all lines and even their order. The same holds for ranks. Neither applies to tasks that are not listed here."
)


def _field(studies: Sequence[StudyResults]) -> tuple[list[str], list[str]]:
    """Return the names of the tasks, and the arms that all studies have."""
    if len(studies) < LEAST:
        raise ArgumentError(
            f"report: a page over several studies needs at least {LEAST} of them, one per task, got {len(studies)}; "
            "for the report of a single study, name one DIR"
        )
    folders = [study.folder.resolve() for study in studies]
    if len(set(folders)) < len(folders):
        raise ArgumentError("report: each study may be given only once, got a folder twice; remove the duplicate")
    arms = [arm for arm in studies[0].arms if all(arm in study.arms for study in studies)]
    if len(arms) < 2:
        raise ArgumentError(
            f"report: the studies must have at least two arms in common, got {', '.join(arms) or 'none'}; compare the "
            "same --optimizers and --schedules on every task"
        )
    for study in studies:
        lowest = min((value for arm in arms for value in study.confirmed(arm) if value is not None), default=0.0)
        if lowest < 0:
            raise ArgumentError(
                f"report: a page over several studies compares ratios, so no {study.headline.replace('_', ' ')} may be "
                f"below 0, got {lowest:.4g} on {study.spec.task}; leave this study out"
            )
    names = [study.spec.task for study in studies]
    return [f"{n} ({f.name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)], arms


def _describe(studies: Sequence[StudyResults], names: Sequence[str], arms: Sequence[str]) -> list[str]:
    """Return a sentence on the arms, on those left out, and on the study of each task."""
    left_out = [arm for arm in dict.fromkeys(a for study in studies for a in study.arms) if arm not in arms]
    found = [f"Arms: {', '.join(arms)}."]
    if left_out:
        found.append(f"Left out, because not every study has them: {', '.join(left_out)}.")
    for name, study in zip(names, studies, strict=True):
        searched = max((len(search.points) for search in study.searches.values()), default=0)
        found.append(
            f"{name}: {study.spec.learning.summary}; {study.spec.steps} steps, {searched} tuning trials and "
            f"{study.seeds} confirmation seeds per arm, compared by {study.headline.replace('_', ' ')}."
        )
    found.append(
        "trials.csv lists the run behind every mean; `fallline reproduce DIR --trial ID` repeats one and compares all "
        "of its numbers."
    )
    return found


def _wins(arms: Sequence[str], tasks: Sequence[TaskMeans]) -> dict[str, int]:
    return {arm: sum(float(task.observed[i]) == 1.0 for task in tasks) for i, arm in enumerate(arms)}


def _headline(arms: Sequence[str], tasks: Sequence[TaskMeans]) -> str:
    wins = _wins(arms, tasks)
    most = max(wins.values())
    best = [arm for arm, count in wins.items() if count == most]
    names = " and ".join(filter(None, [", ".join(best[:-1]), best[-1]]))
    verb, each = ("has", "") if len(best) == 1 else ("have", " each")
    return f"{names} {verb} the best mean on {most} of {len(tasks)} tasks{each}"


def _sentences(arms: Sequence[str], tasks: Sequence[TaskMeans]) -> list[tuple[str, str]]:
    """Return a sentence about every arm, the best mean rank first."""
    wins, found = _wins(arms, tasks), []
    for i, rank in sorted(enumerate(estimate(tasks, ranks)), key=lambda item: item[1].value):
        finite = [ratio for task in tasks if math.isfinite(ratio := float(task.observed[i]))]
        failed = len(tasks) - len(finite)
        worst = f", at most {100 * (max(finite) - 1):.1f} % worse than the best" if finite else ""
        lost = f", failed on {failed}" if failed else ""
        place = f"mean rank {rank.value:.1f} [{rank.low:.1f} to {rank.high:.1f}]"
        found.append((arms[i], f"{arms[i]}: {place}, best on {wins[arms[i]]} of {len(tasks)} tasks{worst}{lost}."))
    return found
