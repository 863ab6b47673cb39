"""`fallline data`: download the missing data of a task and print their location."""

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fallline.cli.options import resolve_task
from fallline.cli.show import console
from fallline.formatting import format_bytes

_LISTED = 6  # maximum number of files to list


def show(name: str) -> None:
    """Download the missing data of a task, and print the files, their sizes and the digest of the data.

    Args:
        name: name of a built-in task, or FILE.py:NAME.
    """
    from fallline.lab.tasks import open_task

    name = resolve_task(name)
    task = open_task(name)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        lines: dict[str, TaskID] = {}

        def progress(file: str, here: int, total: int) -> None:
            if file not in lines:
                lines[file] = bar.add_task(file, total=None)
            bar.update(lines[file], completed=here, total=total or None)

        files = task.data_files(progress)
    console.print(f"{name}: {task.summary}", soft_wrap=True)
    for file in files[:_LISTED]:
        console.print(f"  {file}  {format_bytes(file.stat().st_size)}", soft_wrap=True)
    if len(files) > _LISTED:
        console.print(f"  … and {len(files) - _LISTED} more; the last is {files[-1]}", soft_wrap=True)
    if not files:
        console.print("  no data files: the data come with a package or are generated")
    digest = task.data_digest()
    if digest is not None:
        console.print(f"  digest {digest}")
