"""What a check finds, and how a check is declared."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fallline.linting.setup import Setup

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
    """A function from a set-up to what is wrong with it, with what it declares."""

    id: str
    severity: str
    source: str
    false_positives: str
    function: "Callable[[Setup], Found]"

    def __call__(self, setup: "Setup") -> list[Finding]:
        """Return the findings, one for each group or one for all."""
        return [Finding(self.id, self.severity, message, self.source, fix) for message, fix in self.function(setup)]


CHECKS: dict[str, Check] = {}


def check(severity: str, source: str, false_positives: str) -> "Callable[[Callable[[Setup], Found]], Check]":
    """Declare a check; its id is the name of the function.

    Args:
        severity: one of `SEVERITIES`.
        source: who says so.
        false_positives: when it is wrong, for the docs.
    """

    def declare(function: "Callable[[Setup], Found]") -> Check:
        declared = Check(function.__name__.replace("_", "-"), severity, source, false_positives, function)
        CHECKS[declared.id] = declared
        return declared

    return declare
