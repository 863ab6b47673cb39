"""What `fallline data` prints: where the data of a task are, after fetching what is missing."""

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fallline.cli.show import console
from fallline.formatting import format_bytes

_LISTED = 6  # files, before the rest is only counted


def show(name: str) -> None:
    """Fetch what is missing of a task's data, and print where they are, how many items they have and their digest.

    Args:
        name: of a built-in task, or FILE.py:NAME.
    """
    from fallline.lab.tasks import get_task

    task = get_task(name)
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
        console.print(f"  … and {len(files) - _LISTED} more, the last {files[-1]}", soft_wrap=True)
    if not files:
        console.print("  no files of its own: the data come with a package, or are made")
    digest = task.data_digest()
    if digest is not None:
        console.print(f"  digest {digest}")
