"""Files and folders while they are written: named so that they differ from finished ones, and from abandoned ones."""

import os
import platform
import re
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = ".draft-"
_ABANDONED_S = 3600.0  # age from which the writer, on another machine, must be gone: writing takes a moment


def draft_prefix() -> str:
    """Return how the names of what this process writes begin, until it is finished and renamed."""
    return f"{PREFIX}{platform.node()}-{os.getpid()}-"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that it is never seen half written; an OSError leaves the old one."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=draft_prefix())
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            file.write(text)
        Path(draft).chmod(0o644)  # mkstemp keeps the file to its owner; a study's folder is there to be shared
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder, and nothing that is still written."""
    for draft in folder.glob(f"{PREFIX}*"):
        if not _is_abandoned(draft):
            continue
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _is_abandoned(draft: Path) -> bool:
    writer = re.fullmatch(rf"{re.escape(PREFIX)}(.*)-(\d+)-[^-]*", draft.name)
    if writer is not None and writer[1] == platform.node() and not _is_alive(int(writer[2])):
        return True
    try:
        return time.time() - draft.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill ends a process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
