"""Define the commands; usage errors print one sentence and exit with code 2."""

import functools
import inspect
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from typer.core import TyperCommand

from fallline.cli import compare, gate, landscape, lr_range, options, race, show, studies
from fallline.cli import data as datasets
from fallline.cli import lint as linter
from fallline.cli import report as reports
from fallline.cli import schedules as schedule_pictures
from fallline.cli.new_task import new_task as write_new_task
from fallline.errors import FalllineError

INTERRUPTED = 130
TRACEBACK = "FALLLINE_TRACEBACK"  # environment variable
_RESUMABLE = ("compare", "exercise", "survey", "gate")  # commands that a second call resumes
_KINDS = {"int": "a whole number", "float": "a number"}
# click's ClickException; its location depends on the version of typer.
CommandError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="fallline",
    help="Find the optimizer, schedule and learning rate that suit your model.",
    epilog="Example: fallline compare digits --optimizers momentum,adam,adamw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def run() -> int:
    """Run the command line and return the exit code: 0, 2 for a usage error, 130 after Ctrl-C.

    A usage error is one sentence. With `--traceback` or FALLLINE_TRACEBACK=1, its traceback is printed before it.
    """
    for stream in (sys.stdout, sys.stderr):  # under LC_ALL=C, printing "±" would raise an error
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")
    shared = {TRACEBACK: os.environ.get(TRACEBACK, "0") not in ("", "0")}
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(standalone_mode=False, prog_name="fallline", obj=shared) or 0
    except (CommandError, FalllineError) as error:
        if shared[TRACEBACK]:
            traceback.print_exc()
        return _fail(_sentence(error) if isinstance(error, CommandError) else str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # newer versions of typer return this after Ctrl-C
        resumable = sys.argv[1:2] in [[name] for name in _RESUMABLE]
        _fail("stopped" + ("; finished trials are kept; rerun the same command to resume" if resumable else ""))
    return int(code)


def _sentence(error: Any) -> str:
    """Return typer's message for a usage error, with the rejected value and the help command added."""
    message = error.format_message().rstrip(".")
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    details: list[Any] = getattr(error.__cause__, "errors", list)()  # newer versions omit the value from the message
    found: dict[str, Any] = next(iter(details), {})
    if parameter is not None and isinstance(value := found.get("input"), str):
        kind = _KINDS.get(str(found.get("type")).partition("_")[0])
        option = max(parameter.opts, key=len)
        name = option if option.startswith("-") else parameter.metavar or option
        message = f"{name}: must be {kind}, got {value!r}" if kind else f"{message}, got {value!r}"
    return message if context is None else f"{message}; see `{context.command_path} --help`"


def _fail(message: str) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(f"fallline: {message}")
    return 2


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning; one of Fallline without the line of its source that issued it."""
    if category.__module__ == FalllineError.__module__:
        print(f"fallline: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _set_traceback(context: typer.Context, wanted: bool) -> bool:
    context.obj[TRACEBACK] |= wanted
    return wanted


Traceback: TypeAlias = Annotated[  # eager, so that it also holds for an error in another option
    bool,
    typer.Option("--traceback", help="Print the traceback of an error.", callback=_set_traceback, is_eager=True),
]


def _with_traceback(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the option `--traceback`."""

    @functools.wraps(function)
    def command(traceback: bool = False, **arguments: Any) -> None:
        function(**arguments)

    option = inspect.Parameter("traceback", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Traceback)
    parameters = inspect.signature(function).parameters.values()
    vars(command)["__signature__"] = inspect.Signature([*parameters, option])
    command.__annotations__ = {**function.__annotations__, option.name: Traceback}
    return command


def _version(wanted: bool) -> None:
    if wanted:
        Console().print(f"fallline {version('fallline')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    traceback: Traceback = False,
) -> None:
    pass


class _Command(TyperCommand):
    """A command whose help shows a repeatable argument as `DIR ...` instead of its Python type."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        for parameter in self.params:
            if parameter.nargs == -1:
                vars(parameter)["display_type_rich"] = lambda ctx: "..."


def _command(short: str, example: str) -> Callable[[Any], Any]:
    """Return a decorator that registers a function as the command at the start of `example`."""
    name = example.partition(" ")[0]
    register = app.command(name, cls=_Command, short_help=short, epilog=f"Example: fallline {example}")
    return lambda function: register(_with_traceback(function))


_command(
    "Tune, confirm and compare optimizers and schedules.",
    "compare digits --optimizers momentum,adam,adamw --quick --out runs/first",
)(compare.compare)
_command("Run one of three classic studies.", "exercise 1 --task digits --quick")(studies.exercise)
_command("Compare the same optimizers on several tasks.", "survey digits digits-cnn text --optimizers adamw,lion,muon")(
    studies.survey
)
_command("Rerun one trial of a study and compare every number.", "reproduce runs/first --trial 3f2a")(studies.reproduce)
_command(
    "Classify the current point: minimum, saddle, sharpness.",
    "landscape digits --optimizer momentum@lr=0.05 --steps 200",
)(landscape.landscape)
_command("Find the learning rates that reduce the loss.", "lr-range digits --optimizer momentum --out lr-range.html")(
    lr_range.lr_range
)
_command(
    "Decide whether a change of a training script is worth keeping.",
    "gate --baseline 'python train.py --seed {seed}' --candidate 'python train.py --rope --seed {seed}' "
    "--metric val_loss",
)(gate.gate)
_command("Animate optimizers that descend a surface.", "race ravine --optimizers sgd,momentum,adam")(race.race)


@_command("Regenerate the report of a finished study.", "report fallline-runs/digits-1a2b3c4d --format html,csv,svg")
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folder of a study, or three or more folders.")],
    formats: Annotated[
        str, typer.Option("--format", help="Comma-separated formats: html, md, csv, png, svg, pdf.")
    ] = "html",
    out: Annotated[Path | None, typer.Option(help="Output folder; by default the folder of the study.")] = None,
) -> None:
    """Regenerate the report of a finished study, and print its verdict.

    For three or more studies of different tasks, write survey.html, which compares the arms that they have in common.
    """
    reports.write(folders, options.split(formats), out)


@_command("Find known mistakes in a training set-up.", "lint train.py:setup --ignore decayed-norms")
def lint(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE:OBJECT", help="(model, optimizer, scheduler, total_steps), or a function that returns it."
        ),
    ],
    ignore: Annotated[str, typer.Option(help="Comma-separated ids of checks to skip.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find known mistakes in a training set-up; the exit code is 1 if a finding is an error."""
    found = linter.findings(target, options.split(ignore))
    linter.show(found, as_json)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


@_command("Download the data of a task, and print their location.", "data fashion-mnist")
def data(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A built-in task, or FILE.py:NAME.")],
    data_dir: options.DataDir = None,
) -> None:
    """Download any missing data of a task, and print where they are stored."""
    options.keep_data_in(data_dir)
    datasets.show(task)


@_command("Write a commented task file for your own model.", "new-task my_task.py")
def new_task(file: Annotated[Path, typer.Argument(metavar="FILE", help="A .py file that does not exist yet.")]) -> None:
    """Write a commented task file that runs unchanged, as a starting point for your own model."""
    write_new_task(file)


@_command("List optimizers, schedules and tasks.", "list")
def list_optimizers() -> None:
    """List optimizers with update, state, defaults and source, then schedules and tasks."""
    show.optimizers()


@_command(
    "Draw schedules, and print the learning rates at their corners.",
    "schedules 'warmup(100).then(cosine(900))' --base 3e-4 --out schedule.svg",
)
def schedules(
    expressions: Annotated[
        list[str] | None, typer.Argument(metavar="SCHEDULE", help="As in Python: 'warmup_cosine(100, 1000)'.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to draw; the whole schedule by default.")] = None,
    base: Annotated[float, typer.Option(help="The base learning rate.")] = 1.0,
    out: options.Picture = None,
) -> None:
    """Draw schedules, and print the learning rates at their corners; by default one of each kind."""
    schedule_pictures.draw(expressions or [], steps, base, out)
