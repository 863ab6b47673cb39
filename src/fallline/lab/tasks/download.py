"""Where the data of the tasks are, and how what is missing is fetched: checked, resumed, never half there."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import StudyError
from fallline.folders import DATA_VARIABLE, data_folder

Progress = Callable[[str, int, int], None]  # file, bytes here, bytes in all (0: the server does not say)

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 18  # bytes
_FRUITLESS = 3  # attempts in a row that bring nothing new, before giving up


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched.

    Attributes:
        url: where from; its last part is the file's name.
        md5: as published by those who made the data; it is to find damage, not malice.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """Files that belong together.

    Attributes:
        name: for messages, and of the folder into which the files are fetched.
        remotes: the files.
        places: folders in which a system's package puts them.
    """

    name: str
    remotes: tuple[Remote, ...]
    places: tuple[Path, ...] = ()

    def files(self, progress: Progress | None = None) -> list[Path]:
        """Return the files in the order of `remotes`, fetching what is in none of the folders.

        A file that is there already is taken as it is: its hash is not enforced, since the user may have put another
        one there on purpose. What the manifest of a study records is the digest of what was read (`Task.data_digest`).

        Args:
            progress: called while a file is fetched.

        Raises:
            StudyError: a file is missing and cannot be fetched; says what to put where.
        """
        own = data_folder() / self.name
        for folder in (own, data_folder(), *self.places):
            if all((folder / remote.name).is_file() for remote in self.remotes):
                return [folder / remote.name for remote in self.remotes]
        return [fetch(remote, own, progress) for remote in self.remotes]


# NOTE [downloads] pooch (1.9) fetches into a temporary file which it deletes when the connection is cut, and has no
# way to resume from there: 170 MB over a bad line may then never arrive. So this fetches by itself: into NAME.part,
# which outlives a cut, a Ctrl-C or a kill, and which becomes NAME in one atomic step once its hash is right.


def fetch(remote: Remote, folder: Path, progress: Progress | None = None) -> Path:
    """Return the file in a folder, fetched if it is not there; several processes may call this at once.

    Args:
        remote: what to fetch.
        folder: where to put it; made if it is not there.
        progress: called with the file's name, the bytes that are here and the bytes in all.

    Raises:
        StudyError: no connection, one that is cut again and again, another file than expected, or no room.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / ".lock"):
            if target.is_file():  # another process was faster
                return target
            resumed = part.exists()
            _receive(remote, part, progress)
            if resumed and _md5(part) != remote.md5:  # the beginning may be of another version
                part.unlink()
                _receive(remote, part, progress)
            if _md5(part) != remote.md5:
                found = f"{part.stat().st_size} bytes with md5 {_md5(part)}"
                part.unlink()
                raise _failure(remote, folder, found)
            part.replace(target)
    except OSError as error:
        raise StudyError(
            f"data: {remote.name} must be written to {folder}, got {error.strerror or error}; make room there, or name "
            f"another folder with --data-dir or {DATA_VARIABLE}"
        ) from None
    return target


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _failure(remote: Remote, folder: Path, found: str, more: str = "") -> StudyError:
    return StudyError(
        f"data: {remote.url} must give {remote.name} with md5 {remote.md5}, got {found}; {more}"
        f"put the file into {folder}, or name the folder that has it with --data-dir or {DATA_VARIABLE}"
    )


def _receive(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Append to the part what it lacks, going on after a cut as long as that brings something new."""
    furthest, fruitless = -1, 0
    while True:
        try:
            complete = _attempt(remote, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise _failure(remote, part.parent, f"HTTP status {error.code} ({error.reason})") from None
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            raise _failure(remote, part.parent, f"no connection ({reason})") from None
        if complete:
            return
        size = part.stat().st_size if part.exists() else 0
        fruitless = 0 if size > furthest else fruitless + 1
        furthest = max(furthest, size)
        if fruitless == _FRUITLESS:
            kept = "rerun the same command to resume, or "
            raise _failure(remote, part.parent, f"a connection that is cut after {size} bytes", kept)


def _attempt(remote: Remote, part: Path, progress: Progress | None) -> bool:
    """Make one request and return whether it brought all; what came is in the part either way."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(remote.url, headers={"User-Agent": "fallline"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        return True  # nothing is left to fetch; the hash will tell whether that is so
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException):  # cut before the answer
        return False
    with response:
        return _append(response, part, have, lambda here, total: progress and progress(remote.name, here, total))


def _append(response: http.client.HTTPResponse, part: Path, have: int, progress: Callable[[int, int], object]) -> bool:
    """Write what an answer brings, after the `have` bytes that are there, and return whether it came to its end."""
    goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if not (response.status == http.client.PARTIAL_CONTENT and goes_on):
        have = 0  # a server that does not know Range sends the whole
    length = int(response.headers.get("Content-Length", 0))
    total = have + length if length else 0
    with part.open("ab" if have else "wb") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK)  # `read` would throw away what came of a chunk before the cut
            except (OSError, http.client.HTTPException):
                return False
            if not chunk:
                return have >= total
            file.write(chunk)
            have += len(chunk)
            progress(have, total)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock in a block; the system releases it when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: fetch with one process, by `fallline data NAME`
        yield
        return
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
