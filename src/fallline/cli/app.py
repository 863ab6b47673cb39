"""The commands, and how errors of use are told: one sentence, exit code 2."""

import io
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from fallline.cli import compare, draw, exercise, inspect, landscape, lr_range, options, race, show
from fallline.cli import data as datasets
from fallline.cli import report as reports
from fallline.cli.new_task import new_task as write_new_task
from fallline.errors import FalllineError

INTERRUPTED = 130
_KEEP = ("compare", "exercise")  # commands whose studies another call resumes
_KINDS = {"int": "a whole number", "float": "a number"}
CommandError: Any = typer.BadParameter.__mro__[2]  # click's ClickException, wherever this version of typer keeps it

app = typer.Typer(
    name="fallline",
    help="Which optimizer, schedule and learning rate suit my model?",
    epilog="Example: fallline compare digits --optimizers momentum,adam,adamw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def run() -> int:
    """Run the command line and return the exit code: 0, 2 for an error of use, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):  # under LC_ALL=C, printing "±" would end the command
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False, prog_name="fallline") or 0
    except CommandError as error:
        return _fail(_sentence(error))
    except FalllineError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # what newer versions of typer return for Ctrl-C
        goes_on = sys.argv[1:2] in [[name] for name in _KEEP]
        _fail("stopped" + ("; finished trials are kept; rerun the same command to resume" if goes_on else ""))
    return int(code)


def _sentence(error: Any) -> str:
    """Return what typer says of a command line, with the value it left out and where help is."""
    said = error.format_message().rstrip(".")
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    details: list[Any] = getattr(error.__cause__, "errors", list)()  # of the newer versions, which name no value
    found: dict[str, Any] = next(iter(details), {})
    if parameter is not None and isinstance(value := found.get("input"), str):
        kind = _KINDS.get(str(found.get("type")).partition("_")[0])
        option = max(parameter.opts, key=len)
        name = option if option.startswith("-") else parameter.metavar or option
        said = f"{name}: must be {kind}, got {value!r}" if kind else f"{said}, got {value!r}"
    return said if context is None else f"{said}; see `{context.command_path} --help`"


def _fail(message: str) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(f"fallline: {message}")
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        Console().print(f"fallline {version('fallline')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


class _Command(TyperCommand):
    """A command whose help shows an argument that may be repeated as `DIR ...`, not by its type in Python."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        for parameter in self.params:
            if parameter.nargs == -1:
                vars(parameter)["display_type_rich"] = lambda ctx: "..."


def _command(short: str, example: str) -> Callable[[Any], Any]:
    """Return the decorator that makes a function the command with which `example` begins."""
    name = example.partition(" ")[0]
    return app.command(name, cls=_Command, short_help=short, epilog=f"Example: fallline {example}")


_command(
    "Tune, confirm and compare optimizers and schedules.",
    "compare digits --optimizers momentum,adam,adamw --quick --out runs/first",
)(compare.compare)
_command("Run one of three classic studies.", "exercise 1 --task digits --quick")(exercise.exercise)
_command("Run one trial of a study again, bit for bit.", "reproduce runs/first --trial 3f2a")(exercise.reproduce)
_command(
    "Minimum or saddle, how sharp, how ill-conditioned?", "landscape digits --optimizer momentum@lr=0.05 --steps 200"
)(landscape.landscape)
_command("Which learning rates make the loss fall?", "lr-range digits --optimizer momentum --out lr-range.html")(
    lr_range.lr_range
)
_command("Let optimizers race down a surface, as a picture.", "race ravine --optimizers sgd,momentum,adam")(race.race)


@_command("Write the report of a finished study again.", "report fallline-runs/digits-1a2b3c4d --format html,csv,svg")
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="The folder of a study, or those of three or more.")
    ],
    formats: Annotated[str, typer.Option("--format", help="html, md, csv, png, svg, pdf, by comma.")] = "html",
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the study's own by default.")] = None,
) -> None:
    """Write the report of a finished study again, and print its verdict.

    Of three studies or more, one a task, write the performance profile of the arms that they have in common.
    """
    reports.write(folders, options.split(formats), out)


@_command("Find known mistakes in a training set-up.", "lint train.py:setup --ignore decayed-norms")
def lint(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE:OBJECT", help="(model, optimizer, scheduler, total_steps), or what returns it."),
    ],
    ignore: Annotated[str, typer.Option(help="Ids of checks to leave out, by comma.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find known mistakes in a training set-up; exit code 1 if there is an error among them."""
    found = inspect.findings(target, options.split(ignore))
    inspect.show(found, as_json)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


@_command("Fetch a task's data, and print where they are.", "data fashion-mnist")
def data(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A built-in task, or FILE.py:NAME.")],
    data_dir: options.DataDir = None,
) -> None:
    """Fetch what is missing of a task's data, and print where they are."""
    options.keep_data_in(data_dir)
    datasets.show(task)


@_command("Write a commented task file for your own model.", "new-task my_task.py")
def new_task(file: Annotated[Path, typer.Argument(metavar="FILE", help="A .py file that is not there yet.")]) -> None:
    """Write a commented task file that runs as it is, to put your own model into."""
    write_new_task(file)


@_command("List optimizers, schedules and tasks.", "list")
def list_optimizers() -> None:
    """List the optimizers: update, state, defaults, source; then schedules and tasks."""
    show.optimizers()


@_command(
    "Draw schedules, with the numbers at their corners.",
    "schedules 'warmup(100).then(cosine(900))' --base 3e-4 --out schedule.svg",
)
def schedules(
    expressions: Annotated[
        list[str] | None, typer.Argument(metavar="SCHEDULE", help="As in Python: 'warmup_cosine(100, 1000)'.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to draw; the whole shape by default.")] = None,
    base: Annotated[float, typer.Option(help="The base learning rate.")] = 1.0,
    out: options.Picture = None,
) -> None:
    """Draw schedules, with the numbers at their corners; without arguments, one of each kind."""
    draw.schedules(expressions or [], steps, base, out)
