"""`fallline schedules`: draw schedules in the terminal and as pictures."""

from collections.abc import Sequence
from pathlib import Path

from fallline import schedules as fs
from fallline.arguments import check_integer, check_number
from fallline.cli.show import PICTURES, blocks, console, save_chart
from fallline.errors import ArgumentError
from fallline.plotting import plot_schedules
from fallline.schedules import Schedule

EXAMPLES = (
    "constant()",
    "step_decay(30)",
    "cosine(100)",
    "warmup_cosine(10, 100)",
    "linear(100, warmup_steps=10)",
    "polynomial(100, power=2)",
    "inverse_sqrt(10)",
    "warmup_stable_decay(10, 60, 30)",
    "one_cycle(100)",
    "one_cycle_momentum(100)",
    "cosine_restarts(25, mult=2)",
    "warmup(10).then(cosine(90))",
)
KNOWN = {name: getattr(fs, name) for name in fs.__all__ if name[0].islower() and name != "parse"}
_WIDTH, _HEIGHT = 64, 6  # characters


def draw(texts: Sequence[str], steps: int | None, base: float, out: Path | None) -> None:
    """Print each schedule as a picture with its corners, or one of each kind; write them to `out` if given."""
    if out is not None and out.suffix not in PICTURES:
        raise ArgumentError(f"--out: must end in one of {', '.join(PICTURES)}, got {out}; for example schedule.svg")
    if steps is not None:
        check_integer("schedules", "steps", steps, 1, "leave it out to draw the whole schedule")
    check_number("schedules", "base", base, above_zero=True, remedy="leave it out for 1")
    found = {text: fs.parse(text, KNOWN) for text in (texts or EXAMPLES)}
    for number, (text, schedule) in enumerate(found.items()):
        if number:
            console.print()
        console.print(text, style="bold", markup=False)
        length = steps or schedule.horizon
        for line in picture(schedule, length, base, _HEIGHT if texts else 2):
            console.print("  " + line, markup=False)
        console.print("  " + corners(schedule, steps or length + 1, base), markup=False, style="dim")
    if out is not None:
        chart = plot_schedules(found, steps, base)
        headline = next(iter(found)) if len(found) == 1 else f"{len(found)} schedules"
        caption = f"The learning rate of the step after k calls of step(), with a base of {base:g}."
        save_chart(chart, out, headline, "schedules", (), caption)


def picture(schedule: Schedule, steps: int, base: float, height: int) -> list[str]:
    """Return lines of block characters that show the learning rate over the steps, from 0 to its maximum."""
    width = min(_WIDTH, steps)
    values = [schedule(int(column * (steps - 1) / max(width - 1, 1)), base) for column in range(width)]
    top = max(*values, *(schedule(k, base) for k in schedule.corners if k < steps)) or 1.0
    return blocks([value / top for value in values], height)


def corners(schedule: Schedule, steps: int, base: float) -> str:
    """Return the learning rates at the steps where a new part of the schedule begins, like `k=0: 0.1`."""
    return "   ".join(f"k={k}: {schedule(k, base):.4g}" for k in schedule.corners if k < steps)
