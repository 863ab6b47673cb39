"""`fallline race`: compare optimizers on a surface in a table, a picture and an animation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fallline.cli import options
from fallline.cli.show import console, path, say
from fallline.errors import ArgumentError
from fallline.problems import PROBLEMS

_SURFACES = ", ".join(PROBLEMS)


def race(
    surface: Annotated[str, typer.Argument(help=f"One of {_SURFACES}.")] = "ravine",
    optimizers: Annotated[
        str, typer.Option(help="Comma-separated arms: sam(sgd), adam@lr=0.1, torch.optim:NAdam.")
    ] = "sgd,momentum,rmsprop,adam,lion",
    steps: Annotated[int, typer.Option(help="Steps of every descent.")] = 200,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of all arms; by default the best one for each.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Output file: .html is an animation; .svg, .png and .pdf are pictures; repeatable."
        ),
    ] = None,
) -> None:
    """Compare optimizers that descend a surface, for example to see SGD zigzag in a ravine or stall on a plateau.

    Each optimizer runs at the same 41 learning rates and is shown at its best one. By default, an animation and a
    picture are written to fallline-runs.
    """
    from fallline.lab.race import FORMATS
    from fallline.lab.race import race as run
    from fallline.lab.race.scene import COLUMNS, method, table, warnings

    targets = out or [Path("fallline-runs") / f"race-{surface}{suffix}" for suffix in (".html", ".svg")]
    for target in targets:
        if target.suffix not in FORMATS:
            raise ArgumentError(
                f"--out: must end in one of {', '.join(FORMATS)}, got {target}; use .html for an animation"
            )
    found = run(surface, options.split(optimizers), steps=steps, lr=lr)
    console.print(f"{found.problem.name}: {found.problem.summary}", style="bold")
    rows = Table(box=None, pad_edge=False, header_style="dim")
    for name in COLUMNS:
        rows.add_column(name, justify="left" if name == COLUMNS[0] else "right", overflow="fold")
    for row in table(found.descents):
        rows.add_row(*row)
    console.print(rows)
    console.print()
    say(method(found.descents))
    for warning in warnings(found.descents):
        say(warning, "! ", style="yellow")
    for target in targets:
        path("animation" if target.suffix == ".html" else "picture", found.save(target))
