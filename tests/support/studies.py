"""Studies to report on: changed after the fact, so that no training is needed for every oddity."""

import itertools
import math
from dataclasses import replace

import numpy as np

from fallline.lab.search.trials import confirm
from fallline.lab.study import Study


def changed(study, **changes):
    """The same study with other results; `study` stays as it is."""
    return Study(replace(study.record, **changes), study.store)


def with_search(study, arm, search):
    """The same study with another search of an arm."""
    return changed(study, searches={**study.searches, arm: search})


def with_outcomes(study, outcome):
    """The same study, every trial with the outcome that a function of it returns."""
    return changed(study, outcomes={trial.id: outcome(trial) for trial in study.trials})


def renamed(study, old, new):
    """The same trials with an arm called otherwise."""
    arms = {arm.name: replace(arm, name=new) if arm.name == old else arm for arm in study.spec.arms}
    ids = {t.id: replace(t, arm=new).id if t.arm == old else t.id for t in study.trials}
    record = study.record
    return changed(
        study,
        spec=replace(study.spec, arms=tuple(arms.values())),
        margin=None,
        searches={arms[name].name: replace(search, arm=arms[name]) for name, search in study.searches.items()},
        timings={arms[name].name: timing for name, timing in record.timings.items()},
        **{
            name: {ids[trial]: value for trial, value in getattr(record, name).items()}
            for name in ("outcomes", "items", "costs")
        },
    )


def lose_a_seed(study, arm):
    """A study in which the last confirmation run of an arm blew up halfway."""
    lost = confirm(study.spec, study.searches[arm])[-1]
    complete = study.outcome(lost)
    failure = {"state": "blown-up", "step": 20, "cause": "training loss 99 after warm-up is over 3 × its start 2"}
    half = replace(complete, failure=failure, curve=complete.curve[:10])
    return changed(study, outcomes={**study.record.outcomes, lost.id: half})


def traced(study):
    """A study whose outcomes have a trace, with a gradient norm of 1 + seed / 10 falling as 1 / step, and spikes."""
    seeds = {t.id: i for s in study.searches.values() for i, t in enumerate(confirm(study.spec, s))}

    def outcome(trial):
        size = 1 + seeds.get(trial.id, 0) / 10
        trace = [
            {"step": step, "loss": 1.0, "grad_norm": size / step, "update_norm": size / step / 100}
            for step in range(1, trial.steps + 1)
        ]
        found = study.outcome(trial)
        return replace(found, trace=trace, metrics={**found.metrics, "spikes": seeds.get(trial.id, 0)})

    return with_outcomes(study, outcome)


def standard_error_by_hand(study, arm, baseline):
    """Of the mean log ratio of test losses: s²/n over the seeds and c/1797 over the digits, written out."""
    logs, seen = [], {}
    for own, other in zip(*(confirm(study.spec, study.searches[name]) for name in (arm, baseline)), strict=True):
        logs.append(math.log(study.outcome(own).metrics["test_loss"] / study.outcome(other).metrics["test_loss"]))
        a, b = (study.store.items(trial) for trial in (own, other))
        x, y = a["metric"].astype(float), b["metric"].astype(float)
        for example, u in zip(a["example"].tolist(), x / x.mean() - y / y.mean(), strict=True):
            seen.setdefault(example, []).append(u)
    products = [u * v for values in seen.values() for u, v in itertools.combinations(values, 2)]
    return math.sqrt(np.var(logs, ddof=1) / len(logs) + max(0, np.mean(products)) / 1797)
