"""The answer to a proposal, as a record, as text and as JSON."""

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from fallline.formatting import NONE, plural

KEEP, NOT_SHOWN = "keep", "not shown"
WIDTH, _LINES = 80, 6
_STOPS = {
    "success": "the improvement is significant",
    "futility": "an improvement has become unlikely",
    "identical": "both arms gave identical results",
    "end": "all pairs are used",
}


@dataclass(frozen=True)
class Answer:
    """The answer to a proposal.

    Attributes:
        verdict: "keep" or "not shown".
        reason: why the runs stopped.
        metric: name of the metric.
        gain: estimated improvement in the unit of the metric, positive if the candidate is better; None, as the next
            two, if no look was reached.
        low, high: repeated confidence interval with the confidence 1 − 2 level over all looks.
        margin: improvement that had to be exceeded, in the unit of the metric.
        detectable: smallest improvement that the test would have found with 80 % power; None if no look was reached.
        p, nominal: p-value of the last look, and the level with which it was compared.
        level: significance level of the proposal.
        pairs, max_seeds: seeds that were used with both arms, and the largest number.
        noise: "independent" or "shared" between the arms, as far as earlier proposals show.
        proposal: number of the proposal in the session; 0 for the hold-out.
        control: "family" or "fdr".
        left: proposals that may follow; None for no limit.
        next_level: level of the next proposal; None if there is none.
        deterministic: whether a repeated run of the baseline gave the same value; None if it was not checked.
        seeds, baseline, candidate: seeds, and the values of both arms.
        session: folder of the session.
    """

    verdict: str
    reason: str
    metric: str
    gain: float | None
    low: float | None
    high: float | None
    margin: float
    detectable: float | None
    p: float | None
    nominal: float | None
    level: float
    pairs: int
    max_seeds: int
    noise: str
    proposal: int
    control: str
    left: int | None
    next_level: float | None
    deterministic: bool | None
    seeds: list[int]
    baseline: list[float]
    candidate: list[float]
    session: str

    @property
    def exit_code(self) -> int:
        """0 for keep, 1 for not shown."""
        return 0 if self.verdict == KEEP else 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields with the exit code."""
        return {**asdict(self), "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Answer":
        """Return the answer of a record that `to_json` returned."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        """Return the answer in at most six lines of 80 columns."""
        lines = []
        if self.gain is not None:
            lines.append(
                f"{self.metric} improves by {_text(self.gain)} ({100 * (1 - 2 * self.level):.5g} % interval "
                f"{_text(self.low)} to {_text(self.high)}), margin {_text(self.margin)}"
            )
        lines.append(f"{self.pairs} of at most {plural(self.max_seeds, 'seed')} per arm, {self._noise()}")
        lines.append(f"smallest improvement found with 80 % power: {_text(self.detectable)}")
        lines.append(self._budget())
        room = _LINES - len(lines)
        head = textwrap.wrap(f"{self.verdict.upper()}: {self.reason}", WIDTH, max_lines=room, placeholder=" …")
        return "\n".join([*head, *(textwrap.shorten(line, WIDTH, placeholder=" …") for line in lines)])

    def _noise(self) -> str:
        repeat = {True: ", deterministic", False: ", not deterministic", None: ""}[self.deterministic]
        return f"{self.noise} noise{repeat}"

    def _budget(self) -> str:
        if self.proposal == 0:
            return f"hold-out, level {self.level:g}"
        text = f"proposal {self.proposal} at level {self.level:.3g} ({self.control})"
        left = "" if self.left is None else f"; {plural(self.left, 'proposal')} left"
        return text + left + ("" if self.next_level is None else f", next level {self.next_level:.3g}")


def explain(stop: str, pairs: int) -> str:
    """Return the reason why a series of pairs stopped."""
    return f"stopped after {plural(pairs, 'pair')} because {_STOPS[stop]}"


def _text(value: float | None) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.4g}".replace("-", "−")
