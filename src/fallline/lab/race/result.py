"""A race of optimizers on a surface as users hold it: its runs, its picture and its animation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.race.chart import chart
from fallline.lab.race.page import page
from fallline.lab.race.runs import ARMS, STEPS, Descents, Run, run_all
from fallline.lab.report.formats import cannot_write
from fallline.problems import Problem

FORMATS = (".html", ".svg", ".png", ".pdf")


@dataclass(frozen=True, eq=False)
class Race:
    """Optimizers on a surface.

    Attributes:
        descents: the runs, with the surface, the goal and the number of steps.
    """

    descents: Descents

    def __str__(self) -> str:
        lines = [
            f"{run.arm} at lr {run.lr:.3g}: "
            + ("the goal is not reached" if run.reached is None else f"{run.reached} steps to the goal")
            for run in self.ranking
        ]
        return "\n".join([f"{self.problem.name}, {self.steps} steps", *lines])

    @property
    def problem(self) -> Problem:
        """The surface."""
        return self.descents.problem

    @property
    def steps(self) -> int:
        """The steps of every descent."""
        return self.descents.steps

    @property
    def goal(self) -> float:
        """The value to be reached and kept."""
        return self.descents.goal

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order of the arms."""
        return self.descents.runs

    @property
    def ranking(self) -> list[Run]:
        """The runs, fewest steps to the goal first; those that miss it by their last value."""
        return self.descents.ranking

    def plot(self) -> Any:
        """Return the still picture, an altair chart: level lines and the paths to the goal."""
        return chart(self.descents)

    def save(self, path: Path) -> Path:
        """Write the animation (.html, one file that needs no network) or the still picture (.svg, .png, .pdf).

        Raises:
            ArgumentError: the name ends in something else.
            StudyError: the file cannot be written.
        """
        if path.suffix not in FORMATS:
            raise ArgumentError(f"race: a file must end in {', '.join(FORMATS)}, got {path}; html is the animation")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".html":
                path.write_text(page(self.descents), encoding="utf-8")
            else:
                self.plot().save(str(path))
        except OSError as error:
            raise cannot_write(path, error, "race") from None
        return path


def race(
    surface: str | Problem, optimizers: Sequence[str] = ARMS, *, steps: int = STEPS, lr: float | None = None
) -> Race:
    """Let optimizers descend on a surface from the same start.

    Each is run at 41 learning rates from 1e-4 to 10, the same for all; the rate that reaches the goal in the fewest
    steps is shown, or, where none does, the one whose value is lowest on average. Weight decay is off, since it would
    move the minimum.

    Args:
        surface: a name in `fallline.problems.PROBLEMS`, or a `Problem`.
        optimizers: as for `compare`: "momentum", "sam(sgd)", "adam@lr=0.1" for a rate of its own.
        steps: of every descent, at least 2.
        lr: a learning rate for all, instead of the best of each.

    Raises:
        ArgumentError: there is no such surface or optimizer, or a number cannot be used.

    Example:
        >>> found = race("ravine", ["sgd", "momentum"], steps=100)
        >>> [run.arm for run in found.ranking]  # κ is 30 there, and the best momentum for it 0.48, not 0.9
        ['sgd', 'momentum']
    """
    return Race(run_all(surface, optimizers, steps, lr))
