"""Schedules of the same optimizer, compared over several tasks."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from fallline.lab.analysis.several_tasks import Estimate, TaskMeans
from fallline.lab.analysis.statistics import CONFIDENCE
from fallline.lab.design.arms import Arm
from fallline.lab.report.document import Section, Tabled
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table


def section(arms: Sequence[Arm], tasks: Sequence[TaskMeans]) -> Section | None:
    """Return the section that compares schedules, or None if no optimizer has several."""
    rows = Records()
    for _, group in itertools.groupby(sorted(enumerate(arms), key=_rest), key=_rest):
        (first, base), *others = group
        for i, arm in others:
            found, failed = ratio(tasks, i, first)
            rows.append(
                {
                    "arm": arm.name,
                    "against": base.name,
                    "ratio": found.value,
                    "low": found.low,
                    "high": found.high,
                    "failed": failed,
                }
            )
    if not rows:
        return None

    def cell(row: Row) -> Cell:
        return Cell(f"{row['ratio']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")

    columns = (
        ARM,
        Column("compared with", lambda row: row["against"], "text"),
        Column("ratio\n(geometric mean)", cell),
        Column("tasks on which\none of them failed", lambda row: str(row["failed"])),
    )
    note = (
        "Mean of the headline metric divided by that of the same optimizer with its first schedule: below 1 is better. "
        "Geometric mean over the tasks on which neither failed, with a 95 % interval over new seeds for these tasks. "
        "The learning rate was tuned for every schedule."
    )
    return Section("Schedules", [Tabled(Table("schedules", rows, columns, note))])


def _rest(numbered: tuple[int, Arm]) -> str:
    """Return the name of an arm without its schedule."""
    arm = numbered[1]
    return arm.name.replace(f" + {arm.schedule}", "")


def ratio(tasks: Sequence[TaskMeans], arm: int, other: int) -> tuple[Estimate, int]:
    """Return the geometric mean over tasks of the ratio of two arms, and the number of tasks on which one failed."""
    good = [t for t in tasks if math.isfinite(t.observed[arm]) and math.isfinite(t.observed[other])]
    if not good:
        return Estimate(math.nan, math.nan, math.nan), len(tasks)
    value = math.exp(np.mean([np.log(t.observed[arm] / t.observed[other]) for t in good]))
    drawn = np.exp(np.mean([np.log(t.drawn[:, arm] / t.drawn[:, other]) for t in good], axis=0))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high)), len(tasks) - len(good)
