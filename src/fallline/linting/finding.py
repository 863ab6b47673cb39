"""Findings of the linter, and the declaration of checks."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

SEVERITIES = ("error", "warning", "info")  # almost certainly a bug; against published advice; worth checking


@dataclass(frozen=True)
class Finding:
    """A mistake that a check has found.

    Attributes:
        id: id of the check, which `ignore=` accepts.
        severity: "error" (almost certainly a bug), "warning" (against published advice) or "info".
        message: description of the mistake, with numbers and the reason.
        source: publication or documentation that the check is based on.
        fix: suggested change.
    """

    id: str
    severity: str
    message: str
    source: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}; {self.fix} [{self.id}; {self.source}]"

    def to_dict(self) -> dict[str, str]:
        """Return the finding as a dict of strings, for JSON."""
        return asdict(self)


Found = Iterator[tuple[str, str]]  # message and fix


@dataclass(frozen=True)
class Check:
    """A check: a function that finds mistakes in a set-up (or in a record of a training), and its metadata."""

    id: str
    severity: str
    source: str
    false_positives: str
    function: Callable[[Any], Found]

    def __call__(self, subject: Any) -> list[Finding]:
        """Return the findings, one for each group or one for the whole set-up."""
        return [Finding(self.id, self.severity, message, self.source, fix) for message, fix in self.function(subject)]


CHECKS: dict[str, Check] = {}


def check(
    severity: str, source: str, false_positives: str, into: dict[str, Check] = CHECKS
) -> Callable[[Callable[[Any], Found]], Check]:
    """Return a decorator that declares a check; the id of the check is the name of the function.

    Args:
        severity: one of `SEVERITIES`.
        source: publication or documentation that the check is based on.
        false_positives: circumstances under which the finding is wrong, for the documentation.
        into: registry of the check: `CHECKS`, or `RUN_CHECKS` for checks of a record.
    """

    def declare(function: Callable[[Any], Found]) -> Check:
        declared = Check(function.__name__.replace("_", "-"), severity, source, false_positives, function)
        into[declared.id] = declared
        return declared

    return declare
