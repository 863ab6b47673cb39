"""The tables beside the results: sensitivity, hyperparameters, time to target, spikes."""

import math
from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.time_to_target import median
from fallline.lab.report.measure import measure
from fallline.lab.report.reached import fixed_target, targets, time_to_target
from fallline.lab.report.records import Records
from fallline.lab.report.tables import ARM, Cell, Column, Row, Table
from fallline.lab.report.text import NONE, number, setting
from fallline.lab.report.tuned import budgets, sensitivities


def sensitivity(study: StudyResults) -> Table:
    """Return the table of how each arm depends on its learning rate."""
    kind = measure(study)
    unit = f" ({kind.unit})" if kind.is_loss and kind.unit else ""

    def width(row: Row) -> str:
        return ("≥ " if row["open"] else "") + number(row["width"], ".2f")

    columns = (
        ARM,
        Column("learning rates\ntried", lambda row: f"{row['lowest_lr']:.3g} to {row['highest_lr']:.3g}"),
        Column(f"best\n{kind.title(kind.metric)}", lambda row: number(row["best"], ".4f")),
        Column(f"mean excess over\nthe range{unit}", lambda row: number(row["excess"], ".3f")),
        Column("decades within\n10 % of the best", width),
    )
    note = (
        "Mean excess: how much worse than the best one is on average with a learning rate drawn (in log scale) from "
        "those tried, failures counting as an untrained model. Decades within 10 %: how far the learning rate may be "
        "off; ≥ where it reaches an end of what was tried. Both interpolate linearly between trials."
    )
    return Table("sensitivity", sensitivities(study), columns, note)


def hyperparameters(study: StudyResults) -> Table:
    """Return the table of what was confirmed: each hyperparameter's value and how it came about."""
    rows = Records()
    for arm, search in study.searches.items():
        ranges = {d.name: d for d in search.ranges}
        point = search.points[search.best] if search.best is not None else {}
        interior = None if search.best is None or not ranges else search.edge is None
        row: dict[str, Any] = {"arm": arm, "interior": interior, "edge": " ".join(search.end or ())}
        for name in search.points[0]:
            how = "set by the user" if name in search.arm.fixed else "default"
            if name in ranges:
                ends = (ranges[name].value(0.0), ranges[name].value(1.0))
                choices = ranges[name].choices
                how = " or ".join(map(setting, choices)) if choices else f"{min(ends):.3g} to {max(ends):.3g}"
            row[name] = point.get(name, math.nan if name in ranges else search.points[0][name])
            row[f"{name}_how"] = how
            row[f"{name}_searched"] = name in ranges
        rows.append(row)
    names = list(dict.fromkeys(name for search in study.searches.values() for name in search.points[0]))

    def column(name: str) -> Column:
        def cell(row: Row) -> Cell | str:
            if name not in row:
                return ""
            return Cell(setting(row[name]), row[f"{name}_how"], "tuned" if row[f"{name}_searched"] else "")

        return Column("learning\nrate" if name == "lr" else name.replace("_", " "), cell)

    def inside(row: Row) -> Cell | str:
        if row["interior"] is None:
            return NONE
        return "yes" if row["interior"] else Cell("no", row["edge"].replace("_", " "), "bad")

    note = (
        "Bold: tuned, with the range that was searched, extensions included. The rest was fixed, at the documented "
        "default unless it says otherwise."
    )
    return Table("hyperparameters", rows, (ARM, *map(column, names), Column("optimum\ninterior", inside)), note)


def target(study: StudyResults) -> Table | None:
    """Return the table of the time to the fixed target; None when the baseline fixes none."""
    fixed, kind = fixed_target(study), measure(study)
    if fixed is None:
        return None

    def middle(key: str, form: str) -> Any:
        return lambda row: (
            NONE if row[key] is None else "not reached" if math.isinf(row[key]) else number(row[key], form)
        )

    columns = (
        ARM,
        Column("reached by", lambda row: f"{row['reached']} of {row['runs']}" if row["runs"] else "not confirmed"),
        Column("steps", middle("steps", ",.0f")),
        Column("examples", middle("examples", ",.0f")),
        Column("gradient\nevaluations", middle("gradient_evaluations", ",.0f")),
        Column("seconds", middle("seconds", ".3g")),
    )
    note = (
        f"Target: {kind.title(kind.metric)} of {fixed:.4g}, the median of {study.baseline}'s confirmation runs at "
        "their end, so that nobody chose it after seeing the curves. Medians over the runs; a run that misses the "
        "target or fails counts as infinite, so the median is not reached when half of them miss. Runs are looked at "
        "only when they are evaluated. Seconds: this implementation, this machine, without evaluation."
    )
    return Table("time_to_target", time_to_target(study, fixed), columns, note)


def target_grid(study: StudyResults) -> Table | None:
    """Return the table of the steps to easier targets; None when the baseline fixes none."""
    levels, kind = targets(study), measure(study)
    if not levels:
        return None
    by_level = [{row["arm"]: row for row in time_to_target(study, level)} for level in levels]
    rows = Records(row for found in by_level for row in found.values())
    arms = Records({"arm": arm} for arm in study.arms)

    def column(i: int) -> Column:
        def cell(row: Row) -> str:
            found = by_level[i][row["arm"]]
            if math.isfinite(found["steps"]):
                return number(found["steps"], ",.0f")
            return f"not reached, {found['reached']} of {found['runs']}" if found["runs"] else NONE

        return Column(f"{levels[i]:.3g}", cell)

    columns = (ARM, *map(column, range(len(levels))))
    folded = f"Median steps to easier targets: {kind.title(kind.metric)}"
    return Table("time_to_targets", rows, columns, folded=folded, rows=arms)


def budget(study: StudyResults) -> Table:
    """Return the table of what a budget of tuning would have bought."""
    kind = measure(study)
    columns = (
        ARM,
        Column("trials", lambda row: str(row["trials"])),
        Column("seconds", lambda row: number(row["seconds"], ".1f")),
        Column(f"expected best {kind.title(kind.metric)}", lambda row: number(row["expected"], ".4f")),
        Column("probability\nthat all fail", lambda row: number(row["failing"], ".3f")),
    )
    return Table("tuning_budget", budgets(study), columns, folded="What every budget of tuning buys")


def spikes(study: StudyResults) -> Table | None:
    """Return the table of the spikes of the training loss; None when they were not counted."""
    rows = Records()
    for arm, search in study.searches.items():
        outcomes = [study.outcome(trial) for trial in study.confirmation_trials(search.arm.name)]
        counts = [o.metrics["spikes"] for o in outcomes if "spikes" in o.metrics]
        if not counts:
            continue
        norms = [row["grad_norm"] for o in outcomes for row in o.trace if "grad_norm" in row]
        rows.append(
            {"arm": arm, "runs": len(counts), "spikes": sum(counts), "median_spikes": median(counts)}
            | {"most_spikes": max(counts), "largest_grad_norm": max(norms, default=math.nan)}
        )
    columns = (
        ARM,
        Column("spikes in all", lambda row: f"{row['spikes']:.0f} in {row['runs']} runs"),
        Column("a run, median", lambda row: number(row["median_spikes"], "g")),
        Column("a run, most", lambda row: number(row["most_spikes"], "g")),
        Column("largest\ngradient norm", lambda row: number(row["largest_grad_norm"], ".3g")),
    )
    note = "Spikes of the training loss of the confirmation runs, failed ones up to their failure."
    return Table("spikes", rows, columns, note) if rows else None
