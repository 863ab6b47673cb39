"""Show a study in a notebook: its tables as records, its figures inline, and its answer in a few lines."""

from html import escape
from typing import Any

from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report import topics
from fallline.lab.report.formats import static
from fallline.lab.report.headline import answer, headline
from fallline.lab.report.tables import Records
from fallline.lab.report.topics.differences import against_best
from fallline.lab.report.topics.leaderboard import leaders


def tables(study: StudyResults) -> dict[str, Records]:
    """Return all tables of the report, by name, as records of unrounded values.

    The names are leaderboard, tuning, pairwise, chance, equal_steps, sensitivity, time_to_target, time_to_targets,
    hyperparameters, tuning_budget, spikes, landscape, costs and failures. A table is left out if the study has no data
    for it.
    """
    return {table.name: table.records for table in topics.tables(study)}


def figures(study: StudyResults) -> dict[str, Any]:
    """Return all figures of the report, by name, as Altair charts, which a notebook shows inline."""
    return {name: static(chart) for name, chart in topics.figures(study).items()}


def summary_html(study: StudyResults) -> str:
    """Return the answer of a study as a few lines of HTML, for a notebook."""
    rows = leaders(study)
    lines = [study.comparisons[row["arm"]].sentence for row in rows if row["arm"] in study.comparisons]
    lines += [f"Warning: {warning}" for warning in find_caveats(study)]
    items = "".join(f"<li>{escape(line)}.</li>" for line in lines)
    spec = study.spec
    steps = f"{spec.steps} steps, " if spec.steps else ""
    what = f"{spec.task}: {len(rows)} arms, {steps}{study.seeds} confirmation seeds per arm"
    how = escape(answer(study, against_best(study)))
    return f"<p><strong>{escape(headline(study, rows))}</strong><br>{escape(what)}<br>{how}</p><ul>{items}</ul>"
