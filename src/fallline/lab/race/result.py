"""The result of a race of optimizers on a surface: its runs, its chart and its animation."""

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
    """The result of a race of optimizers on a surface.

    Attributes:
        descents: the runs, the surface, the goal and the number of steps.
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
        """The number of steps of every run."""
        return self.descents.steps

    @property
    def goal(self) -> float:
        """The value that a run must reach and stay below until its last step."""
        return self.descents.goal

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order of the arms."""
        return self.descents.runs

    @property
    def ranking(self) -> list[Run]:
        """The runs, sorted by the number of steps to the goal, then runs that miss it, sorted by their last value."""
        return self.descents.ranking

    def plot(self) -> Any:
        """Return the static picture as an Altair chart: the level lines and the paths to the goal."""
        return chart(self.descents)

    def save(self, path: Path) -> Path:
        """Write the animation (.html, one file that needs no network) or the static picture (.svg, .png, .pdf).

        Raises:
            ArgumentError: the suffix of the file is none of these.
            StudyError: the file cannot be written.
        """
        if path.suffix not in FORMATS:
            raise ArgumentError(f"race: path must end in {', '.join(FORMATS)}, got {path}; use .html for the animation")
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
    """Run several optimizers on a surface, all from the same start.

    Each optimizer is run at the same 41 learning rates from 1e-4 to 10. The result contains its run at the rate that
    reaches the goal in the fewest steps. If no rate reaches the goal, it contains the run with the lowest value on
    average. Weight decay is off, since it would move the minimum.

    Args:
        surface: a name in `fallline.problems.PROBLEMS`, or a `Problem`.
        optimizers: names as for `compare`: "momentum", "sam(sgd)", or "adam@lr=0.1" to fix the rate of one optimizer.
        steps: number of steps of every run, at least 2.
        lr: learning rate for all optimizers; by default, the best rate of each is used.

    Raises:
        ArgumentError: the surface or an optimizer is unknown, or a number is out of range.

    Example:
        >>> found = race("ravine", ["sgd", "momentum"], steps=100)
        >>> [run.arm for run in found.ranking]  # the condition number of the ravine is 100
        ['momentum', 'sgd']
    """
    return Race(run_all(surface, optimizers, steps, lr))
