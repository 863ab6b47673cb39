"""A session: the proposals that share one error budget, rebuilt from its ledger."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.gate.answer import KEEP, Answer
from fallline.lab.gate.budget import TOTAL, next_level
from fallline.lab.gate.ledger import Ledger
from fallline.lab.gate.levels import STEP
from fallline.lab.gate.rule import is_shared
from fallline.lab.gate.runs import Arm, Outcome
from fallline.lab.isolation import derive, small_seed

BASELINE, CANDIDATE = "baseline", "candidate"
HOLD_OUT = 0  # the number of the hold-out; proposals count from 1


@dataclass(frozen=True)
class Proposal:
    """Two arms that are compared.

    Attributes:
        series: number of the series of pairs in the ledger; no two series share a seed.
        number: number of the proposal in the error budget, or `HOLD_OUT`.
        level: significance level.
        paired: whether the two arms are known to share noise.
        arms: the baseline and the candidate.
        metric, mode: metric and "min" or "max".
        source: metric, regex and file of the metric's `Source`.
    """

    series: int
    number: int
    level: float
    paired: bool
    arms: Mapping[str, Arm]
    metric: str
    mode: str
    source: Mapping[str, str]


class Session:
    """The proposals, runs and answers of a session.

    Args:
        folder: folder of the session, whose lock this process holds.

    Raises:
        GateError: the ledger is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder)
        records = self.ledger.find("session")
        self.settings: dict[str, Any] = records[0]["settings"] if records else {}
        self.first = Arm(**records[0]["baseline"]) if records else None

    def begin(self, settings: Mapping[str, Any], baseline: Arm) -> None:
        """Record the settings that all proposals share, and the first baseline."""
        self.settings = dict(settings)
        if self.settings["seed"] is None:
            self.settings["seed"] = secrets.randbits(32)  # so that two sessions do not share seeds
        self.first = baseline
        self.ledger.append("session", settings=self.settings, baseline=baseline.to_json())

    def check_settings(self, given: Mapping[str, Any]) -> None:
        """Check that settings which a later call gives are those of the session.

        Raises:
            ArgumentError: one differs.
        """
        for name, value in given.items():
            if value is not None and value != self.settings[name]:
                raise ArgumentError(
                    f"{name}: must be that of the session, {self.settings[name]!r}, got {value!r}; leave it out, or "
                    f"choose another --session than {str(self.folder)!r}"
                )

    @property
    def baseline(self) -> Arm:
        """The current baseline: the last candidate that was kept, or the first baseline."""
        kept = [record for record in self.ledger.find("answer") if record["verdict"] == KEEP and record["proposal"]]
        if not kept:
            assert self.first is not None  # set by `begin` or by the constructor
            return self.first
        return self.proposal(kept[-1]["series"]).arms[CANDIDATE]

    def proposal(self, series: int) -> Proposal:
        """Return a proposal of the ledger."""
        (record,) = self.ledger.find("proposal", series=series)
        arms = {name: Arm(**record["arms"][name]) for name in (BASELINE, CANDIDATE)}
        return Proposal(**{**{k: v for k, v in record.items() if k != "kind"}, "arms": arms})

    def answer(self, series: int) -> Answer | None:
        """Return the answer to a proposal, or None if it is not finished."""
        records = self.ledger.find("answer", series=series)
        return Answer.from_json(records[-1]) if records else None

    def last(self, hold_out: bool = False) -> Proposal | None:
        """Return the last proposal, or the hold-out; None if there is none."""
        records = [r for r in self.ledger.find("proposal") if (r["number"] == HOLD_OUT) == hold_out]
        return self.proposal(records[-1]["series"]) if records else None

    def is_open(self, proposal: Proposal) -> bool:
        """Return whether a proposal has no answer and was not given up."""
        series = proposal.series
        return self.answer(series) is None and not self.ledger.find("abandon", series=series)

    @property
    def verdicts(self) -> list[bool]:
        """Whether each proposal that has spent its level was kept.

        A proposal that is given up before its first look has spent nothing: it could not have been kept.
        """
        found = []
        for record in self.ledger.find("proposal"):
            unspent = self.ledger.find("abandon", series=record["series"], spent=False)
            if record["number"] != HOLD_OUT and not unspent:
                answer = self.answer(record["series"])
                found.append(answer is not None and answer.verdict == KEEP)
        return found

    def propose(self, candidate: Arm) -> Proposal:
        """Start a proposal with the next level, or resume the unfinished one if its arms are the same.

        Raises:
            GateError: the error budget is spent.
        """
        last = self.last()
        arms = {BASELINE: self.baseline, CANDIDATE: candidate}
        if last is not None and self.is_open(last):
            if last.arms == arms:
                return last
            spent = len(self.pairs(last.series)[0]) >= STEP
            self.ledger.append("abandon", series=last.series, spent=spent)
        verdicts = self.verdicts
        level = next_level(self.settings["control"], verdicts)
        return self._add(len(verdicts) + 1, level, arms, self.settings)

    def hold_out(self, candidate: Arm, baseline: Arm, settings: Mapping[str, Any]) -> Proposal:
        """Start the hold-out test of the current baseline against the first."""
        return self._add(HOLD_OUT, TOTAL, {BASELINE: baseline, CANDIDATE: candidate}, settings)

    def _add(self, number: int, level: float, arms: Mapping[str, Arm], settings: Mapping[str, Any]) -> Proposal:
        series = len(self.ledger.find("proposal"))
        source = {"metric": settings["metric"], "regex": settings["metric_regex"], "file": settings["metric_file"]}
        paired = is_shared([self.pairs(i) for i in range(series) if self.proposal(i).number != HOLD_OUT])
        self.ledger.append(
            "proposal",
            series=series,
            number=number,
            level=level,
            paired=paired,
            arms={name: arm.to_json() for name, arm in arms.items()},
            metric=settings["metric"],
            mode=settings["mode"],
            source=source,
        )
        return self.proposal(series)

    def seeds(self, series: int) -> list[int]:
        """Return the seeds of a series of pairs, none of which another series of the session has."""
        most, seed = self.settings["max_seeds"], self.settings["seed"]
        factor = derive(seed, "gate", "factor") | 1  # odd, so that no index below 2^31 repeats a seed
        start = derive(seed, "gate", "start")
        return [small_seed(start + factor * index) for index in range(series * most, (series + 1) * most)]

    def outcomes(self, series: int) -> dict[tuple[str, int], Outcome]:
        """Return the outcomes of the finished runs of a series by arm and seed.

        Failed runs of the baseline are left out, so that they are run again, and so are those of the candidate with a
        seed with which the baseline has not finished: they may have failed for the same reason.
        """
        found = {}
        arms = self.proposal(series).arms
        for record in self.ledger.find("run", series=series):
            arm, problem = record["arm"], record["problem"]
            if record["digest"] == digest(arms[arm]) and not (problem and arm == BASELINE):
                found[arm, record["seed"]] = Outcome(record["value"], problem, record["seconds"])
        return {
            (arm, seed): outcome
            for (arm, seed), outcome in found.items()
            if not outcome.problem or (BASELINE, seed) in found
        }

    def record_run(self, proposal: Proposal, arm: str, seed: int, outcome: Outcome) -> None:
        """Write the outcome of a run to the ledger."""
        self.ledger.append(
            "run",
            series=proposal.series,
            arm=arm,
            seed=seed,
            value=outcome.value,
            problem=outcome.problem,
            seconds=round(outcome.seconds, 3),
            digest=digest(proposal.arms[arm]),
        )

    def pairs(self, series: int) -> tuple[list[float], list[float]]:
        """Return the values of baseline and candidate by seed, for the seeds for which both are there."""
        found = self.outcomes(series)
        values = []
        for seed in self.seeds(series):
            both = [found.get((arm, seed)) for arm in (BASELINE, CANDIDATE)]
            if all(outcome is not None and outcome.value is not None for outcome in both):
                values.append([outcome.value for outcome in both if outcome is not None and outcome.value is not None])
        return [x for x, _ in values], [y for _, y in values]


def digest(arm: Arm) -> str:
    """Return a hash of the command and the files of an arm."""
    return hashlib.sha256(json.dumps(arm.to_json(), sort_keys=True).encode()).hexdigest()[:16]
