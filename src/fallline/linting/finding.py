"""What a check finds, and how a check is declared."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

SEVERITIES = ("error", "warning", "info")  # a bug almost surely; against published advice; worth a look


@dataclass(frozen=True)
class Finding:
    """One mistake: which, how sure, what and why, whose advice it is, and what to do.

    Attributes:
        id: of the check; `ignore=` takes it.
        severity: "error" (a bug, almost surely), "warning" (against published advice) or "info".
        message: what is wrong, with the numbers, and why.
        source: who says so.
        fix: what to do.
    """

    id: str
    severity: str
    message: str
    source: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}; {self.fix} [{self.id}; {self.source}]"

    def to_dict(self) -> dict[str, str]:
        """Return it as plain strings, for JSON."""
        return asdict(self)


Found = Iterator[tuple[str, str]]  # message and fix


@dataclass(frozen=True)
class Check:
    """A function from a set-up (or from a record of a training) to what is wrong, with what it declares."""

    id: str
    severity: str
    source: str
    false_positives: str
    function: Callable[[Any], Found]

    def __call__(self, subject: Any) -> list[Finding]:
        """Return the findings, one for each group or one for all."""
        return [Finding(self.id, self.severity, message, self.source, fix) for message, fix in self.function(subject)]


CHECKS: dict[str, Check] = {}


def check(
    severity: str, source: str, false_positives: str, into: dict[str, Check] = CHECKS
) -> Callable[[Callable[[Any], Found]], Check]:
    """Declare a check; its id is the name of the function.

    Args:
        severity: one of `SEVERITIES`.
        source: who says so.
        false_positives: when it is wrong, for the docs.
        into: where it is listed: `CHECKS`, or `RUN_CHECKS` for what looks at a record.
    """

    def declare(function: Callable[[Any], Found]) -> Check:
        declared = Check(function.__name__.replace("_", "-"), severity, source, false_positives, function)
        into[declared.id] = declared
        return declared

    return declare
