"""What using an arm takes over several tasks: tuning, the learning rate, time and memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from fallline.formatting import format_number
from fallline.lab.analysis.costs import summarize_costs
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.several_tasks import geometric_mean
from fallline.lab.report.document import Section, Tabled
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table
from fallline.lab.report.topics.sensitivity import sensitivities

_OfStudy = Mapping[str, Mapping[str, Any]]  # a record by arm


def tuning_section(studies: Sequence[StudyResults], arms: Sequence[str]) -> Section:
    """Return the section on what tuning gains and how much the learning rate matters."""
    return Section("Tuning", [Tabled(default_table(studies, arms)), Tabled(rate_table(studies, arms))])


def cost_section(studies: Sequence[StudyResults], arms: Sequence[str], baseline: str) -> Section:
    """Return the section on time and memory."""
    return Section("Time and memory", [Tabled(cost_table(studies, arms, baseline))])


def default_table(studies: Sequence[StudyResults], arms: Sequence[str]) -> Table:
    """Return the table of the gain from the documented default to the tuned configuration."""
    found = [{row["arm"]: row for row in study.leaderboard()} for study in studies]

    def gain(study: StudyResults, row: Row) -> float:
        default, tuned = row[f"default_{study.metric}"], row[f"tuned_{study.metric}"]
        return float(default / tuned if study.mode == "min" else tuned / default)

    rows = Records()
    for arm in arms:
        gains = [gain(study, rows_of[arm]) for study, rows_of in zip(studies, found, strict=True)]
        good = [value for value in gains if math.isfinite(value) and value > 0]
        rows.append(
            {
                "arm": arm,
                "factor": median(good) if good else math.nan,
                "least": min(good, default=math.nan),
                "most": max(good, default=math.nan),
                "failed": len(gains) - len(good),
            }
        )
    columns = (
        ARM,
        Column("default / tuned\nmedian over tasks", lambda row: format_number(row["factor"], ".2f")),
        Column("least and most", lambda row: _range(row["least"], row["most"], ".2f")),
        Column("tasks without\na result", lambda row: str(row["failed"])),
    )
    note = (
        "How many times worse the validation result of the documented default is than that of the tuned configuration, "
        "in one run each on the seed used for tuning. The tuned configuration was selected by this number, so the gain "
        "is slightly too large. Tasks have no result where the default or every trial failed."
    )
    return Table("default-against-tuned", rows, columns, note)


def rate_table(studies: Sequence[StudyResults], arms: Sequence[str]) -> Table:
    """Return the table of the tuned learning rates and of the sensitivity to the learning rate."""
    found = [{row["arm"]: row for row in sensitivities(study)} for study in studies]
    boards = [{row["arm"]: row for row in study.leaderboard()} for study in studies]
    rows = Records()
    for arm in arms:
        rates = [board[arm]["lr"] for board in boards if board[arm]["lr"] == board[arm]["lr"]]
        widths = [rows_of[arm]["width"] for rows_of in found if rows_of[arm]["width"] is not None]
        excess = [
            r["excess"] / abs(r["best"])
            for r in (rows_of[arm] for rows_of in found)
            if r["excess"] is not None and r["best"] and not math.isnan(r["excess"])
        ]
        rows.append(
            {
                "arm": arm,
                "lowest_lr": min(rates, default=math.nan),
                "highest_lr": max(rates, default=math.nan),
                "width": median(widths) if widths else math.nan,
                "excess": median(excess) if excess else math.nan,
            }
        )
    columns = (
        ARM,
        Column("tuned learning rates\nlowest, highest", lambda row: _range(row["lowest_lr"], row["highest_lr"], ".2g")),
        Column("range within 10 %\n(decades, median)", lambda row: format_number(row["width"], ".2f")),
        Column("mean excess over\nthe range (median)", lambda row: format_number(100 * row["excess"], ".0f", " %")),
    )
    note = (
        "Range within 10 %: width of the interval of learning rates around the best one in which the validation result "
        "is within 10 % of the best. Mean excess: how much worse than the best the result is on average, if the "
        "learning rate is drawn log-uniformly from the range tried. Both are medians over the tasks; the report of "
        "each study shows the curves. Prodigy estimates its learning rate."
    )
    return Table("learning-rates", rows, columns, note)


def cost_table(studies: Sequence[StudyResults], arms: Sequence[str], baseline: str) -> Table:
    """Return the table of the time of a step and the memory of the state, relative to one of the arms."""
    costs: list[_OfStudy] = [{row["arm"]: row for row in summarize_costs(study)} for study in studies]
    numbers: dict[str, Callable[[Row], float]] = {
        "step": lambda row: row["step_ms"][0],
        "optimizer": lambda row: row["optimizer_ms"][0],
        "state": lambda row: row["state_bytes"],
        "memory": lambda row: row["memory_bytes"],
    }

    def record(arm: str) -> dict[str, Any]:
        row: dict[str, Any] = {"arm": arm}
        for name, number in numbers.items():
            pairs = [(number(of[arm]), number(of[baseline])) for of in costs]
            good = [own / other for own, other in pairs if own > 0 and other > 0]
            row |= {name: geometric_mean(good)}
            row |= {f"{name}_least": min(good, default=math.nan), f"{name}_most": max(good, default=math.nan)}
        return row

    def column(title: str, name: str) -> Column:
        def cell(row: Row) -> Cell:
            return Cell(format_number(row[name], ".2f", " ×"), _range(row[f"{name}_least"], row[f"{name}_most"], ".2f"))

        return Column(title, cell)

    columns = (
        ARM,
        column("one step", "step"),
        column("of which\noptimizer", "optimizer"),
        column("optimizer state", "state"),
        column("all memory", "memory"),
    )
    note = (
        f"Relative to {baseline}: geometric mean over the tasks, and the least and most below. An arm such as SAM, "
        "whose steps take two gradients, made half as many steps in its runs. The times hold for this implementation, "
        "this machine and these small networks, on which the optimizer takes a larger part of a step than on large "
        "ones."
    )
    return Table("costs", Records(record(arm) for arm in arms), columns, note)


def _range(low: float, high: float, form: str) -> str:
    if math.isnan(low):
        return "–"
    return f"{format_number(low, form)} to {format_number(high, form)}"
