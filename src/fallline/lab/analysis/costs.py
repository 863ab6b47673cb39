"""The costs of each arm of a study: trials, seconds, milliseconds per step, bytes."""

import math
from collections.abc import Sequence
from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.outcome import Costs


def summarize_costs(study: StudyResults) -> list[dict[str, Any]]:
    """Return one record per arm; the keys are those of `Study.costs`."""
    rows, timings = [], study.timings
    for arm in study.searches:
        stages = ("confirm", "equal-steps")
        tuning = [*study.tuning_trials(arm), *study.repeated_trials(arm)]
        trials = [*tuning, *(t for s in stages for t in study.confirmation_trials(arm, s))]
        found = [c for t in trials if (c := study.costs.get(t.id)) is not None]
        spent = {name: math.fsum(getattr(c, name) for c in found) for name in ("seconds", "evaluation_s")}
        spent["tuning_s"] = math.fsum(c.seconds for t in tuning if (c := study.costs.get(t.id)) is not None)
        timing = timings[arm].__dict__ if arm in timings else _medians(found)
        rows.append({"arm": arm, "trials": len(trials), **timing, **spent, "timed_alone": arm in timings})
    return rows


def _medians(costs: Sequence[Costs]) -> dict[str, Any]:
    middle = {
        name: sorted(getattr(c, name) for c in costs)[len(costs) // 2] if costs else math.nan
        for name in ("step_ms", "optimizer_ms", "data_ms", "passes", "state_bytes")
    }
    unknown = (math.nan, math.nan)
    return {
        **middle,
        "step_ms": (middle["step_ms"], *unknown),
        "optimizer_ms": (middle["optimizer_ms"], *unknown),
        "memory_bytes": math.nan,
    }
