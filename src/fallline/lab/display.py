"""Show progress on stderr: a bar in a terminal, a line in a notebook, and otherwise one line per stage."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from fallline.formatting import format_duration
from fallline.notices import receive_notices


class Display(ABC):
    """Shows which stage of a long computation runs, how much of it is done, and how long it may take."""

    @abstractmethod
    def stage(self, name: str) -> None:
        """Show that a stage has begun whose length is unknown."""

    @abstractmethod
    def report(self, stage: str, done: int, total: int, unit: str, left: str) -> None:
        """Show how much of a stage is done.

        Args:
            stage: name of the stage.
            done: number of units that are done.
            total: number of units of the whole stage.
            unit: name of the units, in the plural.
            left: the remaining time, or "" if it is unknown.
        """

    @abstractmethod
    def write(self, line: str) -> None:
        """Write a line that remains when the progress is erased."""


def _count(done: int, total: int, unit: str, left: str) -> str:
    return f"{done}/{total} {unit}" + (f", {left}" if left else "")


class _TerminalBar(Display):
    """A bar that is erased in the end. It takes the columns that the texts leave, so the line never wraps."""

    def __init__(self, bar: Bar, start: str) -> None:
        self._bar = bar
        self._task = bar.add_task(start, total=None, count="")

    def stage(self, name: str) -> None:
        self._bar.update(self._task, description=name, total=None, completed=0, count="")

    def report(self, stage: str, done: int, total: int, unit: str, left: str) -> None:
        count = _count(done, total, unit, left)
        begins = self._bar.tasks[0].description != stage  # drawn at once, however soon the stage ends
        self._bar.update(self._task, refresh=begins, description=stage, completed=done, total=total, count=count)

    def write(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _NotebookLine(Display):
    """A line of output that is replaced at every report; it needs no widgets."""

    def __init__(self, start: str) -> None:
        from IPython.display import display  # type: ignore[import-not-found]  # only in a notebook, which has it

        self._written: list[str] = []
        self._handle: Any = display({"text/plain": start}, raw=True, display_id=True)

    def _show(self, line: str) -> None:
        text = "\n".join([*self._written, *filter(None, [line])])
        self._handle.update({"text/plain": text}, raw=True)

    def stage(self, name: str) -> None:
        self._show(name)

    def report(self, stage: str, done: int, total: int, unit: str, left: str) -> None:
        self._show(f"{stage}: {_count(done, total, unit, left)}")

    def write(self, line: str) -> None:
        self._written.append(line)
        self._show("")

    def close(self) -> None:
        """Remove the progress and keep the lines that were written."""
        self._show("")


class _StageLines(Display):
    """One line at the first report of every stage, for logs."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._latest = ""

    def stage(self, name: str) -> None:
        if name != self._latest:
            self._latest = name
            self.write(name)

    def report(self, stage: str, done: int, total: int, unit: str, left: str) -> None:
        if stage != self._latest:
            self._latest = stage
            self.write(f"{stage}: {_count(done, total, unit, left)}")

    def write(self, line: str) -> None:
        self._console.print(line)


class _Nothing(Display):
    """Shows nothing."""

    def stage(self, name: str) -> None:
        pass

    def report(self, stage: str, done: int, total: int, unit: str, left: str) -> None:
        pass

    def write(self, line: str) -> None:
        pass


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, in which stderr is no terminal."""
    python: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(python, "kernel", None) is not None


@contextmanager
def open_display(start: str, shown: bool = True) -> Iterator[Display]:
    """Show progress within a block, and erase it afterwards; notices that are sent in the block are kept.

    Args:
        start: what happens before the first report.
        shown: False to show nothing.
    """
    console = Console(stderr=True)
    terminal = sys.stderr is not None and sys.stderr.isatty() and not console.is_dumb_terminal
    if not shown:
        yield _Nothing()
    elif _in_notebook():
        line = _NotebookLine(start)
        try:
            with receive_notices(line.write):
                yield line
        finally:
            line.close()
    elif terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", markup=False),
        )
        with Bar(*columns, console=console, transient=True, expand=True) as bar:
            display = _TerminalBar(bar, start)
            with receive_notices(display.write):
                yield display
    else:
        lines = _StageLines()
        with receive_notices(lines.write):
            yield lines


def describe_left(seconds: float | None, prefix: str = "") -> str:
    """Return the remaining time as text, such as "2 min 10 s left"; "" if it is unknown."""
    return "" if seconds is None else f"{prefix}{format_duration(seconds)} left"
