"""The costs of the study: the number of trials of each arm, their time and memory, and the failed trials."""

import math
from collections import Counter
from typing import Any

from fallline.formatting import format_number
from fallline.lab.analysis.costs import summarize_costs
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Section, Topic, tabulate
from fallline.lab.report.tables import ARM, Cell, Column, Records, Row, Table


def costs(study: StudyResults) -> Table:
    """Return the table of time and memory, with the numbers of trials and failed trials."""
    ledger = {row["arm"]: row for row in _ledger(study)}
    rows = Records({**_flat(row), **ledger[row["arm"]]} for row in summarize_costs(study))
    columns = (
        ARM,
        Column("tuning trials\nall, failed", lambda row: f"{row['tuning']}, {row['tuning_failed']}"),
        Column("confirmation runs\nall, failed", lambda row: f"{row['confirmation']}, {row['confirmation_failed']}"),
        Column(
            "total time (s)\ntuning + evaluation",
            lambda row: Cell(
                format_number(row["seconds"], ".1f"),
                f"{format_number(row['tuning_s'], '.1f')}, {format_number(row['evaluation_s'], '.1f')}",
            ),
        ),
        Column("one step (ms)\nmedian, quartiles", lambda row: _spread(row, "step_ms")),
        Column("of which\noptimizer (ms)", lambda row: _spread(row, "optimizer_ms")),
        Column("batch\n(ms)", lambda row: format_number(row["data_ms"], ".3f")),
        Column("backward\npasses", lambda row: format_number(row["passes"], "g")),
        Column(
            "optimizer state,\nall memory (MB)",
            lambda row: Cell(*(_megabytes(row[k]) for k in ("state_bytes", "memory_bytes"))),
        ),
    )
    trials = sum(row["tuning"] + row["confirmation"] for row in rows)
    failed = sum(row["tuning_failed"] + row["confirmation_failed"] for row in rows)
    note = (
        f"Total over all trials of the study: {trials} trials, of which {failed} failed, "
        f"{format_number(sum(row['seconds'] for row in rows), '.1f')} s. "
        f"{_timing(rows)} It holds for this implementation and this machine. Memory includes "
        "parameters, gradients, optimizer state and the tensors saved for the backward pass."
    )
    return Table("costs", rows, columns, note)


def _timing(rows: Records) -> str:
    """Return the sentence on how the times per step were measured."""
    others = [row["arm"] for row in rows if not row["timed_alone"] and not math.isnan(row["step_ms"])]
    if not any(row["timed_alone"] for row in rows):
        return "The time per step was measured while other trials ran."
    exception = f", but that of {', '.join(others)} while other trials ran" if others else ""
    return f"The time per step was measured on one thread, with alternating runs of the arms{exception}."


def _flat(row: Row) -> dict[str, Any]:
    """Return a record with separate keys for the median and the quartiles of each time."""
    flat = dict(row)
    for name in ("step_ms", "optimizer_ms"):
        flat[name], flat[f"{name}_q1"], flat[f"{name}_q3"] = row[name]
    return flat


def _spread(row: Row, name: str) -> Cell:
    """Return a cell with a median and, if known, its quartiles below."""
    low, high = row[f"{name}_q1"], row[f"{name}_q3"]
    return Cell(format_number(row[name], ".3f"), "" if math.isnan(low) else f"{low:.3f} to {high:.3f}")


def _megabytes(size: float) -> str:
    return format_number(size / 1e6, ".3g")


def _ledger(study: StudyResults) -> Records:
    rows = Records()
    for arm in study.searches:
        trials = [*study.tuning_trials(arm), *study.repeated_trials(arm)]
        tuning = [study.outcome(trial) for trial in trials]
        confirmation = [o for stage in ("confirm", "equal-steps") for o in study.confirmation(arm, stage)]
        rows.append(
            {
                "arm": arm,
                "tuning": len(tuning),
                "tuning_failed": sum(o.failure is not None for o in tuning),
                "confirmation": len(confirmation),
                "confirmation_failed": sum(o.failure is not None for o in confirmation),
            }
        )
    return rows


def failures(study: StudyResults) -> Table | None:
    """Return the table of failed trials by arm, stage and state, with one example each; None if no trial failed."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], Row] = {}
    for trial in study.trials:
        failure = study.outcome(trial).failure
        if failure is not None:
            key = (
                trial.arm,
                {"tune": "tuning", "confirm": "confirmation"}.get(trial.stage, trial.stage),
                failure["state"],
            )
            counts[key] += 1
            example.setdefault(key, {"step": failure["step"], "cause": failure["cause"], "lr": trial.options.get("lr")})
    rows = Records(
        {"arm": arm, "stage": stage, "state": state, "count": count, **example[arm, stage, state]}
        for (arm, stage, state), count in counts.items()
    )
    columns = (
        ARM,
        Column("stage", lambda row: row["stage"], "text"),
        Column("trials", lambda row: str(row["count"])),
        Column("state", lambda row: row["state"], "text"),
        Column(
            "for example",
            lambda row: Cell(f"at step {row['step']}, learning rate {format_number(row['lr'], '.3g')}", row["cause"]),
            "text",
        ),
    )
    note = (
        "Failed trials count as outcomes: they use their part of the budget, rank last, are never selected and are "
        "never dropped from a mean."
    )
    return Table("failures", rows, columns, note) if rows else None


def _section(study: StudyResults) -> Section:
    return Section("Costs and failures", tabulate(costs(study), failures(study)))


TOPIC = Topic(_section, lambda study: [costs(study), failures(study)])
