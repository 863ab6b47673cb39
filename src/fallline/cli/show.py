"""What the commands print: tables, verdicts and the progress line."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from fallline.lab.study import Progress, Study
    from fallline.rule import Rule

console = Console(highlight=False)


@contextmanager
def progress_line() -> Iterator[Callable[["Progress"], None]]:
    """Show one line with the trials done and the time left, on a terminal; nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials, {task.fields[left]} left"),
    )
    errors = Console(stderr=True)
    with Bar(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("starting workers", total=None, left="time")

        def show(progress: "Progress") -> None:
            left = _duration(progress.seconds_left)
            bar.update(task, completed=progress.done, total=progress.total, description=progress.stage, left=left)

        yield show


def verdict(study: "Study") -> None:
    """Print the leaderboard and a sentence for every comparison."""
    spec = study.spec
    console.print(
        f"{spec.task}: {spec.steps} steps; {spec.trials} + 1 tuning trials and {spec.seeds} confirmation seeds an arm",
        style="bold",
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rank", "arm", "best lr", "test loss ± SD", "accuracy", "failed", "lr interior"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for row in study.leaderboard():
        table.add_row(
            str(row["rank"]),
            row["arm"],
            _number(row["lr"], ".2g"),
            f"{_number(row['test_loss'], '.4f')} ± {_number(row['test_loss_sd'], '.4f')}",
            _number(row.get("test_accuracy", math.nan), ".2%"),
            f"{row['failed']} of {row['seeds']}",
            "yes" if row["interior"] else "no",
        )
    console.print(table)
    console.print()
    for result in study.results.values():
        console.print(f"• {result.sentence}")
    for warning in study.warnings():
        console.print(f"! {warning}", style="yellow")


def path(name: str, target: Path) -> None:
    """Print where a file is, on a line of its own so that it can be copied."""
    console.print(f"{name}: {target}", soft_wrap=True)


def optimizers() -> None:
    """Print every optimizer with its arms, update, state, defaults and source; then schedules and tasks."""
    import inspect

    from fallline.lab.schedules import SCHEDULES
    from fallline.lab.spaces import SPACES
    from fallline.lab.tasks import TASKS
    from fallline.optimizers import OPTIMIZERS

    for name, cls in OPTIMIZERS.items():
        rule = cls.rule
        parameters = inspect.signature(cls.__init__).parameters
        hyper = [key for key in ("lr", *rule.ranges, "weight_decay") if key in parameters]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        grid.add_row("update", rule.formula)
        grid.add_row("state", _state(rule))
        grid.add_row("defaults", ", ".join(f"{key}={parameters[key].default}" for key in hyper))
        grid.add_row("decay", rule.weight_decay_modes[0])
        grid.add_row("source", rule.source)
        arms = [arm for arm, space in SPACES.items() if space.optimizer == name]
        grid.add_row("arms", ", ".join(arms))
        console.print(f"{name}  fallline.{cls.__name__}", style="bold")
        console.print(grid)
        console.print()
    console.print(f"[bold]schedules[/bold]  {', '.join(SCHEDULES)}")
    console.print("[bold]tasks[/bold]")
    for name, task in TASKS.items():
        console.print(f"  {name}: {task.summary}")


def _state(rule: "Rule") -> str:
    """Return the bytes of float32 state a parameter, and what they are for."""
    always = [key for key, option in rule.state.items() if option is None]
    text = f"{4 * len(always)} bytes a parameter" + (f" ({', '.join(always)})" if always else "")
    more = [f"; 4 more with {option} ({key})" for key, option in rule.state.items() if option is not None]
    return text + "".join(more)


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
