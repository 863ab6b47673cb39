"""What a report says: the headline, the tables and the sentences, as plain data for the template."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fallline.lab.plan import confirm, tuning_trials
from fallline.lab.report.looks import looks
from fallline.lab.report.paste import best_code, command
from fallline.lab.schedules import WARMUP
from fallline.lab.statistics import summarize
from fallline.lab.store import read_study
from fallline.lab.tasks import get_task
from fallline.lab.verdicts import Result, Verdict

if TYPE_CHECKING:
    from fallline.lab.study import Study

Row = dict[str, Any]


def content(study: "Study") -> Row:
    """Return everything that the page shows apart from its figures."""
    leaders = [_leader(study, row) for row in study.leaderboard()]
    searched = {d.name for search in study.searches.values() for d in search.ranges}
    chosen = {arm: _hyperparameters(study, arm) for arm in study.arms}
    return {
        "study": study,
        "spec": study.spec,
        "task": get_task(study.spec.task),
        "warmup": round(study.spec.steps * WARMUP),
        "looks": looks(study.arms),
        "headline": headline(study, leaders),
        "results": [study.results[row["arm"]] for row in leaders if row["arm"] in study.results],
        "against_best": _against_best(study, leaders),
        "warnings": study.warnings(),
        "leaders": leaders,
        "metrics": _metrics(leaders),
        "decimals": _decimals(leaders),
        "searched": _words(sorted(searched, key=lambda name: (name != "lr", name))),
        "also_searched": _words(sorted(searched - {"lr"})),
        "hyperparameters": chosen,
        "names": list(dict.fromkeys(name for cells in chosen.values() for name in cells)),
        "extended": max(len(s.points) for s in study.searches.values()) - study.spec.trials - 1,
        "twins": any(arm.twin for arm in study.spec.arms),
        "ledger": [_ledger(study, arm) for arm in study.arms],
        "failures": _failures(study),
        "costs": study.costs(),
        "code": best_code(study),
        "command": command(study),
        "manifest": read_study(study.store.folder)["manifest"],
    }


def headline(study: "Study", leaders: list[Row]) -> str:
    """Return the answer in one line; that there is no answer at this budget is one."""
    first = [row["arm"] for row in leaders if row["rank"] == 1 and row["finished"]]
    finished = sum(row["finished"] for row in leaders)
    if not first:
        return "No arm finished all of its confirmation runs"
    if any(arm.twin for arm in study.spec.arms):
        return _self_check(study)
    if len(leaders) == 1:
        return f"{first[0]}, tuned and confirmed on its own"
    if len(first) == 1:
        return f"{first[0]} is the best of {len(leaders)}" if finished > 1 else f"Only {first[0]} finished all its runs"
    if len(first) == 2:
        return f"{first[0]} and {first[1]} cannot be told apart at this budget"
    who = f"{', '.join(first[:-1])} and {first[-1]}" if len(first) == 3 else f"{len(first)} of {len(leaders)} arms"
    return f"No single winner at this budget: {who} share the first rank"


def _self_check(study: "Study") -> str:
    (result,) = study.results.values()
    if result.verdict is Verdict.FAILED:
        return f"Self-check undecided: {study.baseline} lost seeds"
    if result.verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"Self-check failed: {study.baseline} differs from itself"
    return f"Self-check passed: {study.baseline} does not differ from itself"


def _leader(study: "Study", row: Row) -> Row:
    """Add to a row of the leaderboard its interval, and whether its means may be shown: failed seeds enter no mean."""
    values = [value for value in study.confirmed(row["arm"]) if value is not None]
    finished = not row["failed"] and bool(values)
    interval = summarize(values) if finished else None
    tuned, default = row["tuned_val_loss"], row["default_val_loss"]
    return row | {
        "finished": finished,
        "low": interval.low if interval else math.nan,
        "high": interval.high if interval else math.nan,
        "gain": 100 * (tuned / default - 1) if default > 0 else math.nan,
        "confirmed": study.searches[row["arm"]].best is not None,
    }


def _against_best(study: "Study", leaders: list[Row]) -> list[Result]:
    """Return the comparisons with the lowest mean, from which the ranks follow; none where that is the baseline."""
    finished = [row["arm"] for row in leaders if row["finished"]]
    if not finished or finished[0] == study.baseline:
        return []
    against = study.compare_with(finished[0], finished)
    return [against[arm] for arm in finished[1:]]


def _metrics(leaders: list[Row]) -> list[str]:
    """Return what the test split was scored by besides the loss."""
    names = dict.fromkeys(key for row in leaders for key in row if key.startswith("test_") and not key.endswith("_sd"))
    return [name for name in names if name != "test_loss"]


def _decimals(leaders: list[Row]) -> dict[str, int]:
    """Return how many decimals show three digits of the smallest loss of a column, the same in all its rows."""
    places = {
        name: _places(row.get(name, math.nan) for row in leaders) for name in ("test_loss", "val_loss", "train_loss")
    }
    tuning = _places(row[name] for row in leaders for name in ("default_val_loss", "tuned_val_loss"))
    return places | {"default_val_loss": tuning, "tuned_val_loss": tuning}


def _places(values: Iterable[float]) -> int:
    smallest = min((value for value in values if value > 0), default=1.0)
    return min(8, max(2, 2 - math.floor(math.log10(smallest))))


def _hyperparameters(study: "Study", arm: str) -> dict[str, Row]:
    """Return, by hyperparameter, the value that was confirmed and how it came about."""
    search = study.searches[arm]
    searched = {d.name: d for d in search.ranges}
    point = search.points[search.best] if search.best is not None else {}
    cells = {}
    for name in {**search.arm.space.defaults, **search.arm.fixed}:
        how = "set by the user" if name in search.arm.fixed else "default"
        if name in searched:
            low, high = sorted((searched[name].value(0.0), searched[name].value(1.0)))
            how = f"{low:.3g} to {high:.3g}"
        value = point.get(name, math.nan if name in searched else search.points[0][name])
        cells[name] = {"value": value, "how": how, "searched": name in searched}
    return cells


def _words(names: list[str]) -> str:
    """Return hyperparameters as one would say them: "the learning rate, weight decay and beta1"."""
    said = [name.replace("_", " ") if name != "lr" else "the learning rate" for name in names]
    return " and ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def _ledger(study: "Study", arm: str) -> Row:
    search = study.searches[arm]
    tuning = [study.outcome(trial) for trial in tuning_trials(study.spec, search)]
    confirmation = [study.outcome(trial) for trial in confirm(study.spec, search)]
    return {
        "arm": arm,
        "tuning": len(tuning),
        "tuning_failed": sum(o.failure is not None for o in tuning),
        "confirmation": len(confirmation),
        "confirmation_failed": sum(o.failure is not None for o in confirmation),
    }


def _failures(study: "Study") -> list[Row]:
    """Return the failed trials by arm, stage and state, with one of their causes."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], Row] = {}
    for trial in study.trials:
        failure = study.outcome(trial).failure
        if failure is not None:
            key = (trial.arm, {"tune": "tuning", "confirm": "confirmation"}[trial.stage], failure["state"])
            counts[key] += 1
            example.setdefault(key, {"step": failure["step"], "cause": failure["cause"], "lr": trial.options["lr"]})
    return [
        {"arm": arm, "stage": stage, "state": state, "count": count, **example[arm, stage, state]}
        for (arm, stage, state), count in counts.items()
    ]
