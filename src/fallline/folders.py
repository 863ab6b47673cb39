"""The folders in which Fallline keeps data sets and compiled kernels, and who can write to them."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from fallline.errors import TrustError

PACKAGE = Path(__file__).resolve().parent  # the source files of Fallline
DATA_VARIABLE = "FALLLINE_DATA"  # an environment variable, so that worker processes and cluster jobs inherit it

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_ENTER = stat.S_IXGRP | stat.S_IXOTH
_ROOT = 0
_UNMAPPED = 65534  # the owner of what belongs to root outside, in a container that maps only the user's own uid


def cache_folder() -> Path:
    """Return the folder of compiled kernels: `FALLLINE_CACHE_DIR`, or a folder in the user's cache."""
    override = os.environ.get("FALLLINE_CACHE_DIR")
    if override:
        return Path(override).expanduser()
    home = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    return Path(home or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fallline"


def data_folder() -> Path:
    """Return the folder of data sets: `FALLLINE_DATA` if it is set, else a folder in the user's cache."""
    return Path(os.environ.get(DATA_VARIABLE) or cache_folder() / "data").expanduser()


def create_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents with mode 0700, whatever the umask is; leave existing ones as they are.

    Raises:
        OSError: a folder cannot be created.
    """
    for part in reversed((folder, *folder.parents)):
        part.mkdir(mode=0o700, exist_ok=True)


# NOTE [trust] Kernels and other cached code are executed, so whoever can write to their folder can run code as this
# user. Another user can do so through the file or its folder, through a parent (by renaming the folder and putting
# another one in its place, which the sticky bit of /tmp prevents), and through a symbolic link on the way.


def require_trusted(path: Path) -> None:
    """Check that no other user but root can change an existing file or folder whose content is executed.

    The file or folder must belong to this user or to root, and neither the group nor others may write to it. The same
    holds for its parents and for symbolic links and their targets, but parents may have the sticky bit. A file that
    others may write to is accepted in a folder that they cannot enter. Permissions are not checked on Windows.

    Args:
        path: the file or folder.

    Raises:
        TrustError: another user could change it; the message names the file or folder with the wrong owner or mode.
        OSError: it does not exist or cannot be inspected.

    Example:
        >>> require_trusted(Path("/"))
    """
    if not hasattr(os, "geteuid"):
        return
    target = path.resolve()
    out_of_reach = target.is_file() and not target.parent.stat().st_mode & _OTHERS_MAY_ENTER
    for part in dict.fromkeys((target, *target.parents, *_parts(path.absolute()))):
        status, parent = part.lstat(), part != target
        if status.st_uid not in (os.geteuid(), _ROOT) and not (parent and status.st_uid == _UNMAPPED):
            raise TrustError(f"{part}, which belongs to another user (uid {status.st_uid})")
        protected = status.st_mode & stat.S_ISVTX if parent else out_of_reach
        if status.st_mode & _OTHERS_MAY_WRITE and not stat.S_ISLNK(status.st_mode) and not protected:
            raise TrustError(f"{part}, which other users can write to (mode {stat.S_IMODE(status.st_mode):04o})")


def _parts(path: Path) -> Iterator[Path]:
    """Yield a path, its parents, and the same for the targets of the symbolic links among them."""
    for part in (path, *path.parents):
        yield part
        if part.is_symlink():
            yield from _parts(part.parent / part.readlink())
