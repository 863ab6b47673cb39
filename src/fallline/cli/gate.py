"""`fallline gate`: judge a change of a training script within the error budget of a session."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fallline.errors import FalllineError, GateError

CANNOT = "cannot be judged"


def gate(
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Command that runs the baseline; must contain {seed}. Pass it only when you start a session.",
        ),
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Command of the candidate; without it, resume or repeat the last answer."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Metric in the output of both commands, such as val_loss.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Improvement to exceed, in the unit of the metric; 0 by default.")
    ] = None,
    max_seeds: Annotated[
        int | None, typer.Option(help="Most seeds per proposal, a multiple of 4 up to 128; 32 by default.")
    ] = None,
    session: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the session.")] = Path("fallline-runs/gate"),
    baseline_rev: Annotated[
        str | None, typer.Option(metavar="REV", help="Run the baseline at this git revision, in a worktree.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="family: at most 5 % risk of keeping any useless change, 100 proposals; fdr: at most 5 % of the kept "
            "changes are useless. family by default."
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="min or max; by default what the name of the metric implies.")
    ] = None,
    metric_regex: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Find the metric by a regular expression with one group.")
    ] = None,
    metric_file: Annotated[
        str | None,
        typer.Option(metavar="FILE:KEY", help="Read it from a .json, .jsonl or .csv file: {out}/a.json:loss."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Time limit of each run.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Runs at a time.")] = 1,
    check: Annotated[bool, typer.Option("--check", help="Also run the baseline twice with one seed.")] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Run the hold-out test: the current baseline against the first one.")
    ] = False,
    final_command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Command of the hold-out test; {command} is the command of the arm."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the seeds of all runs; random by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Decide whether a change of a training script is worth keeping: KEEP or NOT SHOWN.

    Both commands run with the same fresh seeds, and a one-sided test of an improvement beyond the margin looks at the
    results after every 4 seeds. A change that is kept becomes the baseline of the next proposal of the session. Rerun
    the same command to resume. The exit code is 0 for keep, 1 for not shown and 2 if it cannot be judged.
    """
    from fallline.lab.gate import gate as judge

    try:
        with _counting() as progress:
            answer = judge(
                baseline,
                candidate,
                metric,
                margin=margin,
                max_seeds=max_seeds,
                session=session,
                baseline_rev=baseline_rev,
                control=control,
                mode=mode,
                metric_regex=metric_regex,
                metric_file=metric_file,
                timeout=timeout,
                jobs=jobs,
                check=check,
                final=final,
                final_command=final_command,
                seed=seed,
                progress=progress,
            )
    except FalllineError as error:
        if as_json:
            print(json.dumps({"verdict": CANNOT, "reason": str(error), "exit_code": 2}, ensure_ascii=False))
            raise typer.Exit(2) from None
        if isinstance(error, GateError):
            raise GateError(f"{CANNOT.upper()}: {error}") from None
        raise
    print(json.dumps(answer.to_json(), ensure_ascii=False) if as_json else answer)
    raise typer.Exit(answer.exit_code)


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """Show a line with the number of finished runs, if stderr is a terminal."""
    errors = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs at most"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, most: bar.update(task, completed=done, total=most)
