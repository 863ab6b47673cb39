"""The section of a report on the landscape: flat against sharp, by arm and by how far the training has come."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Block, Figures, Section, Tabled
from fallline.lab.report.records import Records
from fallline.lab.report.tables import ARM, Column, Table
from fallline.lab.report.text import NONE, number

STAGES = ("start", "middle", "end")
_KEYS = ("sharpness", "lambda_min", "trace", "critical_sharpness")


def records(study: StudyResults) -> Records:
    """Return a record for every arm, stage and confirmation run: arm, seed, stage, step and what was measured."""
    rows = Records()
    for arm, search in study.searches.items():
        for trial in study.confirmation_trials(search.arm.name):
            for stage, row in zip(STAGES, study.outcome(trial).landscape, strict=False):  # a run that failed has fewer
                rows.append({"arm": arm, "seed": trial.seed, "stage": stage, **row})
    return rows


def landscape(study: StudyResults) -> Table | None:
    """Return the table of the curvature of each arm; None when it was not measured."""
    measured = records(study)
    if not measured:
        return None
    rows = Records()
    for arm in study.arms:
        row: dict[str, Any] = {"arm": arm}
        for stage in STAGES:
            here = [r for r in measured if r["arm"] == arm and r["stage"] == stage]
            row |= {f"{stage}_{key}": _finite([r[key] for r in here]) for key in _KEYS}
        rows.append(row)

    def column(title: str, key: str) -> Column:
        return Column(title, lambda row: _spread(row[key]))

    columns = (
        ARM,
        *(column(f"sharpness\n{stage}", f"{stage}_sharpness") for stage in STAGES),
        column("λmin\nend", "end_lambda_min"),
        column("trace\nend", "end_trace"),
        column("critical\nsharpness, end", "end_critical_sharpness"),
    )
    note = (
        "Mean ± SD over the confirmation runs, of the Hessian of the mean loss over four training batches (eval mode): "
        "sharpness is its largest eigenvalue, λmin its smallest. Start: after the first step. Critical sharpness: 2 "
        "over the learning rate at which the last update would begin to raise the loss. Flat against sharp is a gauge "
        "of stability; that flat minima generalise better does not follow."
    )
    return Table("landscape", measured, columns, note, rows=rows)


def section(study: StudyResults, drawn: dict[str, Any]) -> Section | None:
    """Return the section; None when nothing was measured."""
    table = landscape(study)
    if table is None:
        return None
    caption = "Largest eigenvalue of the Hessian along the confirmation runs: mean over seeds, range as a bar."
    blocks: list[Block] = [Figures({"sharpness": drawn["sharpness"]}, caption)] if "sharpness" in drawn else []
    return Section("Landscape", [*blocks, Tabled(table)])


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = number(fmean(values), ".3g")
    return mean if len(values) < 2 else f"{mean} ± {number(stdev(values), '.2g')}"
