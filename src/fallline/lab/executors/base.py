"""The interface of the objects that run trials."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fallline.lab.design.trial import Trial


class Executor(AbstractContextManager[Any], Protocol):
    """A context manager that runs trials within its block."""

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials, and yield each one when its outcome is in the study's folder."""
