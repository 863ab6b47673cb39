"""Write files and folders atomically, under draft names that distinguish unfinished and abandoned ones."""

import os
import platform
import re
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = ".draft-"
_ABANDONED_S = 3600.0  # age after which a writer on another machine must have died, since writing is quick


def draft_prefix() -> str:
    """Return the prefix of the names under which this process writes files before it renames them."""
    return f"{PREFIX}{platform.node()}-{os.getpid()}-"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file atomically, so that readers never see a partial file; after an OSError the old one remains."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=draft_prefix())
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            file.write(text)
        Path(draft).chmod(0o644)  # mkstemp makes the file private to its owner, but study folders are shared
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the drafts that killed processes have left in a folder, but not those that are still being written."""
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
    if os.name == "nt":  # on Windows, os.kill(pid, 0) ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True
