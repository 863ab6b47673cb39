"""The leaderboard: the arms sorted by their mean, the failures, and default against tuned configurations."""

import math
from collections.abc import Iterable

from fallline.formatting import NONE, format_number
from fallline.lab.analysis.failures import describe_failures
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.statistics import summarize
from fallline.lab.report.document import Block, Bullets, Section, Tabled, Text, Topic, tabulate
from fallline.lab.report.measure import Measure, measure
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table


def leaders(study: StudyResults) -> Records:
    """Return the leaderboard with intervals of the headline metric, and whether every seed of the arm finished.

    An arm with a failed seed has neither a mean nor an interval.
    """
    kind = measure(study)
    rows = Records()
    for row in study.leaderboard():
        values = [value for value in study.confirmed(row["arm"], kind.test) if value is not None]
        finished = not row["failed"] and bool(values)
        interval = summarize(values) if finished else None
        rows.append(
            {
                **row,
                "finished": finished,
                "confirmed": study.searches[row["arm"]].best is not None,
                "low": interval.low if interval else math.nan,
                "high": interval.high if interval else math.nan,
            }
        )
    return rows


def leaderboard(study: StudyResults) -> Table:
    """Return the table of the arms, best arm first."""
    kind, rows = measure(study), leaders(study)
    others = [name for name in _metrics(rows) if name not in (kind.test, kind.metric)]
    interior = Column("optimum\ninterior", lambda row: _interior(row))
    columns = [
        Column("rank", lambda row: str(row["rank"]) if row["finished"] else NONE, "text"),
        ARM,
        Column("against the\nbaseline", lambda row: row["verdict"], "words"),
        _headline(kind, rows),
        *(_mean(kind, rows, name) for name in (kind.metric, *others)),
        Column("learning\nrate", lambda row: format_number(row["lr"], ".3g")),
        Column("failed\nseeds", lambda row: f"{row['failed']} of {row['seeds']}" if row["confirmed"] else NONE),
        interior,
    ]
    note = (
        "Means over the confirmation runs, in which the configuration selected on validation was trained on "
        f"{study.seeds} fresh seeds. The test split decided nothing except when to stop adding seeds. An arm shares "
        "rank 1 unless it is worse than the arm with the best mean. Optimum interior: whether the best values lie "
        "inside the range that was searched."
    )
    return Table("leaderboard", rows, tuple(columns), note)


def _headline(kind: Measure, rows: Records) -> Column:
    form = _form(kind.test, rows)

    def cell(row: Row) -> Cell:
        if not row["finished"]:
            if row["confirmed"]:
                return Cell(f"failed {row['failed']} of {row['seeds']} seeds,", "so no mean", "bad")
            failed = f"failed {row['tuning_failed']} of {row['tuning_trials']} tuning trials,"
            return Cell(failed, "so not confirmed", "bad")
        spread = f"{format_number(row[kind.test], form)} ± {format_number(row[f'{kind.test}_sd'], form)}"
        return Cell(spread, f"{format_number(row['low'], form)} to {format_number(row['high'], form)}")

    return Column(f"{kind.title(kind.test)}\nmean ± SD\n95 % interval", cell)


def _mean(kind: Measure, rows: Records, name: str) -> Column:
    form = _form(name, rows)
    split, _, rest = kind.title(name).partition(" ")
    return Column(f"{split}\n{rest}", lambda row: format_number(row.get(name, math.nan), form))


def _interior(row: Row) -> str:
    return NONE if not row["confirmed"] else "yes" if row["interior"] else "no"


def _metrics(rows: Records) -> list[str]:
    """Return the metrics of the confirmation runs: all metrics of the test split, and the other losses."""
    names = dict.fromkeys(k for row in rows for k in row if k.startswith("test_") and not k.endswith("_sd"))
    return [*names, *(name for name in ("val_loss", "train_loss") if any(name in row for row in rows))]


def _form(name: str, rows: Records) -> str:
    """Return the number format of a column: percent for accuracies, else three digits of the smallest value."""
    if name.endswith("accuracy"):
        return ".2%"
    return f".{_places(row.get(name, math.nan) for row in rows)}f"


def _places(values: Iterable[float]) -> int:
    smallest = min((abs(value) for value in values if value and not math.isnan(value)), default=1.0)
    return min(8, max(2, 2 - math.floor(math.log10(smallest))))


def equal_steps(study: StudyResults) -> Table | None:
    """Return the table of arms that normally make fewer steps, run at the full number of steps; None without any."""
    kind, rows = measure(study), Records()
    for arm in study.arms:
        if not study.confirmation(arm, "equal-steps"):
            continue
        values = study.confirmed(arm, kind.test, "equal-steps")
        good = [value for value in values if value is not None]
        summary = summarize(good) if len(good) == len(values) else None
        mean, sd = (summary.mean, summary.sd) if summary else (math.nan, math.nan)
        fewer = study.spec.steps_of(study.searches[arm].arm, "confirm")
        rows.append(
            {"arm": arm, "fewer_steps": fewer, "steps": study.spec.steps, kind.test: mean, f"{kind.test}_sd": sd}
            | {"failed": len(values) - len(good), "seeds": len(values)}
        )
    form = _form(kind.test, rows)
    columns = (
        ARM,
        Column("steps in the\nleaderboard", lambda row: str(row["fewer_steps"])),
        Column("steps in\nthis table", lambda row: str(row["steps"])),
        Column(
            f"{kind.title(kind.test)}\nmean ± SD",
            lambda row: f"{format_number(row[kind.test], form)} ± {format_number(row[f'{kind.test}_sd'], form)}",
        ),
        Column("failed\nseeds", lambda row: f"{row['failed']} of {row['seeds']}"),
    )
    note = (
        "Results for an equal number of steps instead of an equal number of gradient evaluations. The same "
        "configuration makes as many steps as the other arms, and so uses more gradient evaluations. These results do "
        "not enter ranks or verdicts."
    )
    return Table("equal_steps", rows, columns, note) if rows else None


def tuning(study: StudyResults) -> Table:
    """Return the table that compares the documented default with the tuned configuration."""
    kind = measure(study)
    rows = Records()
    for row in study.leaderboard():
        default, tuned = row[f"default_{kind.metric}"], row[f"tuned_{kind.metric}"]
        ratio = 100 * (tuned / default - 1) if kind.is_ratio and default > 0 else tuned - default
        counts = {key: row[key] for key in ("tuning_failed", "tuning_trials")}
        rows.append({"arm": row["arm"], "default": default, "tuned": tuned, "change": ratio, **counts})
    form = (
        ".2%" if kind.metric.endswith("accuracy") else f".{_places(r[k] for r in rows for k in ('default', 'tuned'))}f"
    )
    title = kind.title(kind.metric)

    def value(key: str) -> Column:
        return Column(
            f"{title},\n{key}",
            lambda row: Cell("failed", style="bad") if math.isnan(row[key]) else format_number(row[key], form),
        )

    columns = (
        ARM,
        value("default"),
        value("tuned"),
        Column(
            "change",
            lambda row: (
                format_number(row["change"], "+.1f", " %") if kind.is_ratio else format_number(row["change"], "+.4f")
            ),
        ),
        Column("tuning trials\nfailed", lambda row: f"{row['tuning_failed']} of {row['tuning_trials']}"),
    )
    note = (
        "Default against tuned configuration: single runs on the tuning seed. The results are on the validation split, "
        "which also selected the tuned configuration, so the tuned result is slightly optimistic."
    )
    return Table("tuning", rows, columns, note)


def means(study: StudyResults) -> list[tuple[str, str]]:
    """Return a summary of the leaderboard: for each arm the mean and SD of the headline metric, or its failures."""
    kind, rows = measure(study), leaders(study)
    cell = _headline(kind, rows)
    return [(row["arm"], cell(row).text.rstrip(",")) for row in rows]


def _section(study: StudyResults) -> Section:
    """Return the section with the leaderboard, the reasons of failures and the related tables."""
    failed = describe_failures(study)
    reasons: list[Block] = [Text("", lead="Failures"), Bullets([f"{sentence}." for sentence in failed])]
    others = tabulate(equal_steps(study), tuning(study))
    return Section("Leaderboard", [Tabled(leaderboard(study)), *(reasons if failed else []), *others])


TOPIC = Topic(_section, lambda study: [leaderboard(study), equal_steps(study), tuning(study)])
