"""What runs trials, as the lab sees it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fallline.lab.design.trial import Trial


class Executor(AbstractContextManager[Any], Protocol):
    """Runs trials, while it is entered."""

    def run(self, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Run trials and yield each when its outcome is in the study's folder."""
