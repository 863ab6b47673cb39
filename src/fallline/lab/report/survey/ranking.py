"""Mean ranks and numbers of wins over tasks, in all and by kind of network, and the ratios behind them."""

import math
from collections.abc import Sequence

import altair as alt

from fallline.formatting import format_number
from fallline.lab.analysis.several_tasks import TaskMeans, by_group, estimate, is_best, ranks
from fallline.lab.report.document import Figures, Section, Tabled
from fallline.lab.report.encodings import colour, finish, mark, tip, visible
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table

_LINES = (("rank", "mean rank"), ("rank_low", "at least"), ("rank_high", "at most"))  # of a tooltip


def section(arms: Sequence[str], names: Sequence[str], networks: Sequence[str], tasks: Sequence[TaskMeans]) -> Section:
    """Return the section with the tables of ranks and of ratios.

    Args:
        arms: the arms.
        names, networks: the name and the kind of network of every task.
        tasks: the means of the arms on every task.
    """
    table = rank_table(arms, networks, tasks)
    caption = "Mean rank over the tasks, from 1 (always the best), and its 95 % interval over new seeds."
    figure = Figures({"ranks": rank_chart(arms, table.records)}, caption)
    return Section("Ranks", [figure, Tabled(table), Tabled(ratio_table(arms, names, tasks))])


def rank_table(arms: Sequence[str], networks: Sequence[str], tasks: Sequence[TaskMeans]) -> Table:
    """Return the table of mean ranks and wins, in all and by kind of network; the best mean rank comes first."""
    groups = by_group(networks, tasks)
    rank, wins = estimate(tasks, ranks), estimate(tasks, is_best)
    own = {name: estimate(part, ranks) for name, part in groups.items()} if len(groups) > 1 else {}
    rows = Records(
        {
            "arm": arm,
            "rank": rank[i].value,
            "rank_low": rank[i].low,
            "rank_high": rank[i].high,
            "wins": len(tasks) * wins[i].value,
            "wins_low": len(tasks) * wins[i].low,
            "wins_high": len(tasks) * wins[i].high,
            **{f"rank_{name}": found[i].value for name, found in own.items()},
        }
        for i, arm in enumerate(arms)
    )
    rows.sort(key=lambda row: row["rank"])

    def interval(row: Row, name: str, form: str) -> Cell:
        return Cell(f"{row[name]:{form}}", f"{row[f'{name}_low']:.1f} to {row[f'{name}_high']:.1f}")

    columns = [
        ARM,
        Column("mean rank", lambda row: interval(row, "rank", ".1f")),
        Column(f"best on\n(of {len(tasks)} tasks)", lambda row: interval(row, "wins", ".3g")),
        *(_rank_of(name, len(part)) for name, part in groups.items() if own),
    ]
    note = (
        f"Ranks from 1 (best) to {len(arms)} by the mean of the headline metric; arms that failed on a task share its "
        "last ranks. The small numbers are 95 % intervals over new seeds for these tasks. Arms with nearly equal means "
        "have ranks that depend on the seeds, so their intervals are wide."
    )
    return Table("ranks", rows, tuple(columns), note)


def rank_chart(arms: Sequence[str], records: Records) -> alt.LayerChart:
    """Return a chart of the mean rank of every arm with its interval, in the order of the records of `rank_table`."""
    scale = alt.Scale(domain=[0.8, len(arms) + 0.2], zero=False, nice=False)
    axis = alt.Axis(values=list(range(1, len(arms) + 1)), format="d")
    low, value = (alt.X(f"{name}:Q", scale=scale, axis=axis, title="mean rank") for name in ("rank_low", "rank"))
    y = alt.Y("arm:N", sort=[row["arm"] for row in records], title=None)
    numbers = [{key: row[key] for key in ("arm", "rank", "rank_low", "rank_high")} for row in records]
    tips = ["arm:N", *(tip(*line, ".2f") for line in _LINES)]
    base = visible(numbers).encode(y=y, color=colour(arms), tooltip=tips)
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=low, x2="rank_high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=value, shape=mark(arms)),
    ]
    return finish(layers, 24 * len(arms), "Mean rank of each arm over the tasks, with 95 % intervals")


def _rank_of(network: str, count: int) -> Column:
    tasks = "task" if count == 1 else "tasks"
    return Column(f"mean rank,\n{network} ({count} {tasks})", lambda row: f"{row[f'rank_{network}']:.1f}")


def ratio_table(arms: Sequence[str], names: Sequence[str], tasks: Sequence[TaskMeans]) -> Table:
    """Return the table of the ratio to the best arm on every task."""
    records = Records(
        {"arm": arm, "task": name, "ratio": float(task.observed[i])}
        for name, task in zip(names, tasks, strict=True)
        for i, arm in enumerate(arms)
    )
    ratio = {(row["arm"], row["task"]): row["ratio"] for row in records}

    def column(task: str) -> Column:
        def cell(row: Row) -> str:
            value = ratio[row["arm"], task]
            return "failed" if math.isinf(value) else format_number(value, ".3f")

        return Column(task, cell)

    note = (
        "Mean of the headline metric over the confirmation runs, divided by the mean of the best arm of the task (or "
        "the inverse if higher is better)."
    )
    rows = Records({"arm": arm} for arm in arms)
    return Table("ratios", records, (ARM, *map(column, names)), note, rows=rows)
