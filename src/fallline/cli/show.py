"""Print the tables and verdicts of the commands, and show the progress of measurements."""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fallline.formatting import format_duration, format_number, unbroken

if TYPE_CHECKING:
    from fallline.lab.analysis.results import StudyResults
    from fallline.lab.design.spec import Spec
    from fallline.lab.estimate import Estimate
    from fallline.lab.study import Study
    from fallline.landscape import Step
    from fallline.rules.rule import Rule

PICTURES = (".svg", ".png", ".pdf", ".html")
_BLOCKS = " ▁▂▃▄▅▆▇█"
# No markup and no emoji, because names of arms, tasks and files may contain `[a]` or `:fire:`.
console = Console(highlight=False, markup=False, emoji=False)


@contextmanager
def measurement_progress() -> Iterator[Callable[[str, "Step"], None]]:
    """Show the progress of measurements, and for each the longest time that it may still take."""
    from fallline.lab.display import describe_left, open_display

    with open_display("preparing") as display:

        def report(what: str, step: "Step") -> None:
            display.report(what, step.done, step.total, step.unit, describe_left(step.seconds, "up to "))

        yield report


def verdict(study: "Study") -> None:
    """Print the leaderboard, the reasons why runs failed, and a sentence for every comparison."""
    from fallline.lab.analysis.failures import describe_failures

    console.print(_size(study.spec), style="bold")
    name, accuracy = study.headline.replace("_", " "), "test_accuracy"
    table = Table(box=None, pad_edge=False, header_style="dim")
    rows = study.leaderboard()
    other = [accuracy] if any(accuracy in row for row in rows) and study.headline != accuracy else []
    names = ("rank", "arm", "best lr", f"{name} ± SD", *(key[5:] for key in other), "failed", "interior")
    for column in names:
        table.add_column(column, justify="left" if column == "arm" else "right", overflow="fold")
    for row in rows:
        unconfirmed = study.searches[row["arm"]].best is None
        table.add_row(
            "–" if row["failed"] else str(row["rank"]),  # as in the report
            row["arm"],
            format_number(row["lr"], ".2g"),
            f"{format_number(row[study.headline], '.4f')} ± {format_number(row[f'{study.headline}_sd'], '.4f')}",
            *(format_number(row.get(key, math.nan), ".2%") for key in other),
            "–" if unconfirmed else f"{row['failed']} of {row['seeds']}",
            "–" if unconfirmed else "yes" if row["interior"] else "no",
        )
    console.print(table)
    for sentence in describe_failures(study.record, study.store.folder):
        say(sentence, "× ", style="red")
    console.print()
    for result in study.results.values():
        say(result.sentence, "• ")
    if reason := study.record.explain_stopping():
        say(reason, "• ")
    for warning in study.warnings():
        say(warning, "! ", style="yellow")


def estimate(spec: "Spec", expected: "Estimate", workers: int) -> None:
    """Print the estimated cost of a study."""
    low, high = expected.trials
    console.print(_size(spec), style="bold")
    console.print(f"arms: {'; '.join(arm.name for arm in spec.arms)}", soft_wrap=True)
    console.print(f"trials: {low}, up to {high} if ranges are extended or all seeds are needed")
    times = f"{format_duration(expected.seconds[0])}, up to {format_duration(expected.seconds[1])}"
    console.print(f"time: about {times}, with {workers} worker{'s' * (workers != 1)}")
    console.print(f"disk: up to {expected.bytes / 1e6:.1f} MB")


def status(study: "StudyResults") -> None:
    """Print the number of finished trials of each arm, out of those known to be needed so far."""
    tuned = study.has(study.tuning)
    console.print(_size(study.spec), style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("arm", "tuning", "confirmation", "failed"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for arm in study.arms:
        own = [trial for trial in study.trials if trial.arm == arm]
        stages = [[t for t in own if t.stage == "tune"], [t for t in own if t.stage != "tune"]]
        done = [[study.outcomes[t.id] for t in trials if t.id in study.outcomes] for trials in stages]
        failed = sum(o.failure is not None for part in done for o in part)
        confirmation = len(stages[1]) if tuned else max(len(stages[1]), study.seeds)  # none if all tuning trials failed
        table.add_row(arm, f"{len(done[0])} of {len(stages[0])}", f"{len(done[1])} of {confirmation}", str(failed))
    console.print(table)
    path("folder", study.folder)
    if tuned and study.has(study.trials):
        console.print("all trials are finished")


def _size(spec: "Spec") -> str:
    from fallline.lab.design.group_sequential import seeds_text

    times = f" × {spec.searches} searches" if spec.searches > 1 else ""
    steps = f"{spec.steps} steps; " if spec.steps else ""
    return (
        f"{spec.task}: {steps}{spec.trials}{times} + 1 tuning trials and {seeds_text(spec.seeds)} "
        "confirmation seeds per arm"
    )


def stability(study: "Study") -> None:
    """Print the largest gradient norm and the spikes of every arm's confirmation runs."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("arm", "largest gradient norm", "spikes by seed"):
        table.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for arm in study.arms:
        outcomes = study.confirmation(arm)
        norms = [row["grad_norm"] for o in outcomes for row in o.trace]
        largest = format_number(max(norms, default=math.nan), ".3g")
        table.add_row(arm, largest, " ".join(f"{o.metrics['spikes']:.0f}" for o in outcomes))
    console.print()
    console.print(table)


def say(sentence: str, lead: str = "", style: str = "") -> None:
    """Print a sentence, wrapped with a hanging indent; numbers and their units stay on the same line."""
    for line in textwrap.wrap(
        unbroken(sentence), console.width - 1, initial_indent=lead, subsequent_indent=" " * len(lead)
    ) or [""]:
        console.print(line.replace("\u00a0", " "), style=style, markup=False, soft_wrap=True)


def note(sentence: str) -> None:
    """Print a remark on standard error, so that it is no part of the answer."""
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(sentence, style="dim")


def path(name: str, target: Path) -> None:
    """Print the path of a file on a separate line, so that it can be copied."""
    console.print(f"{name}: {target}", soft_wrap=True)


def save_chart(chart: Any, out: Path, *words: Any) -> None:
    """Write a chart in the format given by the file name, and print the path.

    Args:
        chart: an altair chart.
        out: output file; .html is a page for offline use.
        *words: texts of the page, see `chart_page`: headline, subject, notes and caption.

    Raises:
        StudyError: the file cannot be written.
    """
    from fallline.lab.report.formats import cannot_write
    from fallline.lab.report.render import chart_page

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".html":
            out.write_text(chart_page(chart, *words), encoding="utf-8")
        else:
            chart.save(str(out))
    except OSError as error:
        raise cannot_write(out, error, "picture") from None
    path("picture", out)


def blocks(values: Sequence[float], height: int) -> list[str]:
    """Return values from 0 to 1 as lines of block characters, one column per value, top line first."""
    eighths = [round(8 * height * value) for value in values]
    return [
        "".join(_BLOCKS[min(max(level - 8 * row, 0), 8)] for level in eighths).rstrip()
        for row in reversed(range(height))
    ]


def optimizers() -> None:
    """Print every optimizer with its arms, update, state, defaults and source; then schedules and tasks."""
    import inspect

    from fallline.lab.design.schedules import SCHEDULES
    from fallline.lab.design.spaces import SPACES
    from fallline.lab.tasks import TASKS
    from fallline.optimizers import OPTIMIZERS

    for name, cls in OPTIMIZERS.items():
        rule = cls.rule
        parameters = inspect.signature(cls.__init__).parameters
        hyper = [key for key in ("lr", *rule.ranges, "weight_decay") if key in parameters]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        grid.add_row("update", rule.formula.replace(";  ", ";\n"))
        grid.add_row("state", _state(rule, {key: parameter.default for key, parameter in parameters.items()}))
        grid.add_row("defaults", ", ".join(f"{key}={parameters[key].default}" for key in hyper))
        grid.add_row("decay", rule.weight_decay_modes[0])
        grid.add_row("source", rule.source)
        arms = [arm for arm, space in SPACES.items() if space.optimizer == name]
        grid.add_row("arms", ", ".join(arms))
        console.print(f"{name}  fallline.{cls.__name__}", style="bold")
        console.print(grid)
        console.print()
    console.print("master weights of bfloat16 parameters", style="bold")
    console.print("  4 bytes per parameter; 2 with master_weights=split32, 1 with split24")
    console.print()
    console.print("schedules", style="bold")
    console.print(f"  {', '.join(SCHEDULES)}; `fallline schedules` draws them")
    console.print()
    console.print("tasks", style="bold")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, task in TASKS.items():
        grid.add_row(f"  {name}", task.summary)
    console.print(grid)


def _state(rule: "Rule", defaults: dict[str, Any]) -> str:
    """Return the bytes of state per parameter, with the names of the state tensors, then those by `state_dtype`."""
    from fallline.rules.memory import bytes_by_dtype

    square = (256, 256)
    always = [key for key, shape in rule.state_shapes(square, defaults).items() if shape == square]
    others = [key for key, option in rule.state.items() if option is None and key not in always]
    text = f"{4 * len(always)} bytes per parameter" + (f" ({', '.join(always)})" if always else "")
    more = [f"; 4 more with {option} ({key})" for key, option in rule.state.items() if option is not None]
    text += "".join(more) + (f"; of other shapes: {', '.join(others)}" if others else "")
    low = [f"{size:.3g} with state_dtype={dtype}" for dtype, size in bytes_by_dtype(rule, square, defaults).items()]
    switched = "" if always else f"with {' or '.join(filter(None, rule.state.values()))}, "
    return text + (f";\n{switched}{', '.join(low)}" if low else "")
