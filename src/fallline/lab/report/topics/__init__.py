"""The topics of the report of a study in their order, and the document, tables and figures built from them."""

from typing import Any

from fallline.formatting import plural
from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Document
from fallline.lab.report.headline import answer, headline
from fallline.lab.report.measure import measure
from fallline.lab.report.tables import Table
from fallline.lab.report.topics import (
    costs,
    differences,
    gradients,
    hyperparameters,
    landscape,
    leaderboard,
    methods,
    reproduce,
    sensitivity,
    threats,
    time_to_target,
    training,
    tuning_budget,
)

TOPICS = (
    leaderboard.TOPIC,
    differences.TOPIC,
    sensitivity.TOPIC,
    training.TOPIC,
    time_to_target.TOPIC,
    hyperparameters.TOPIC,
    tuning_budget.TOPIC,
    gradients.TOPIC,
    landscape.TOPIC,
    costs.TOPIC,
    methods.TOPIC,
    threats.TOPIC,
    threats.WARNINGS,
    reproduce.TOPIC,
)


def document(study: StudyResults) -> Document:
    """Return the report of a finished study: first the answer, the warnings and the code, then the topics."""
    spec, rows = study.spec, leaderboard.leaders(study)
    sections = [topic.section(study) for topic in TOPICS]
    compared = [study.comparisons[row["arm"]] for row in rows if row["arm"] in study.comparisons]
    return Document(
        headline=headline(study, rows),
        subject=f"{spec.task} · {plural(len(rows), 'arm')} · "
        + (f"{spec.steps} steps · " if spec.steps else "")
        + f"{study.seeds} confirmation seeds per arm",
        arms=study.arms,
        verdicts=[(result.arm, f"{result.sentence}.") for result in compared],
        notes=_how_to_read(study),
        warnings=[f"{warning}." for warning in find_caveats(study)],
        sections=[section for section in sections if section is not None and section.blocks],
        name=spec.task,
        means=leaderboard.means(study),
        answer=answer(study, differences.against_best(study)),
        code=reproduce.best_arm(study),
    )


def tables(study: StudyResults) -> list[Table]:
    """Return all tables of the report of a study."""
    return [table for topic in TOPICS for table in topic.tables(study) if table is not None]


def figures(study: StudyResults) -> dict[str, Any]:
    """Return all figures of the report of a study, by name.

    Every chart has a parameter `hidden`, the list of arms not to draw. The legend of the page sets it in all charts.
    """
    return {name: chart for topic in TOPICS for name, chart in topic.figures(study).items()}


def _how_to_read(study: StudyResults) -> list[str]:
    if not study.comparisons:
        return []
    kind = measure(study)
    sign = "negative" if kind.mode == "min" else "positive"
    return [
        f"Numbers with ± are the mean ± SD of the {kind.title(kind.test)}; {kind.better} is better. A change is that "
        f"of the arm named first relative to the other one, so {sign} changes are better. "
        "Brackets contain the 95 % interval of the change, which is not corrected for the number of "
        f"comparisons; p is corrected for the number of comparisons with {study.baseline}, the baseline.",
        *([study.explain_stopping()] if study.explain_stopping() else []),
    ]
