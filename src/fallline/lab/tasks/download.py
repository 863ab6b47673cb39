"""Locate the data sets of the tasks, and download missing files with checksums, resumption and atomic renames."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import StudyError
from fallline.folders import DATA_VARIABLE, cache_folder, create_private_folder, data_folder

Progress = Callable[[str, int, int], None]  # (file, bytes received, total bytes or 0 if unknown)

_TIMEOUT = 30  # seconds without data
_CHUNK = 1 << 18  # bytes
_FRUITLESS = 3  # consecutive attempts without progress before giving up


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Attributes:
        url: URL of the file; its last part is the file name.
        md5: checksum published by the authors of the data; it detects corruption, not tampering.
    """

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """The files of a data set.

    Attributes:
        name: name used in messages, and of the folder to which the files are downloaded.
        remotes: the files.
        places: folders where system packages install the files.
    """

    name: str
    remotes: tuple[Remote, ...]
    places: tuple[Path, ...] = ()

    def files(self, progress: Progress | None = None) -> list[Path]:
        """Return the files in the order of `remotes`, and download those that are in none of the folders.

        The checksum of an existing file is not verified, because the user may have replaced it on purpose. The manifest
        of a study records the digest of the data that were read (`Task.data_digest`).

        Args:
            progress: called during a download.

        Raises:
            StudyError: a file is missing and cannot be downloaded; the message names the file and where to put it.
        """
        own = data_folder() / self.name
        for folder in (own, data_folder(), *self.places):
            if all((folder / remote.name).is_file() for remote in self.remotes):
                return [folder / remote.name for remote in self.remotes]
        return [fetch(remote, own, progress) for remote in self.remotes]


# NOTE [downloads] pooch (1.9) downloads to a temporary file that it deletes when the connection breaks, and cannot
# resume, so a download of 170 MB over an unreliable connection may never complete. This module downloads to NAME.part,
# which survives a broken connection, Ctrl-C and a kill, and renames it atomically to NAME once its checksum is correct.


def fetch(remote: Remote, folder: Path, progress: Progress | None = None) -> Path:
    """Return the file in a folder, and download it if it is missing; several processes may call this at once.

    Args:
        remote: the file to download.
        folder: target folder; created if it does not exist.
        progress: called with the file name, the bytes received and the total bytes.

    Raises:
        StudyError: there is no connection, it breaks repeatedly, the checksum is wrong, or the disk is full.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.is_file():
        return target
    try:
        if cache_folder() in folder.parents:  # which also holds code, see NOTE [trust]
            create_private_folder(cache_folder())
        folder.mkdir(parents=True, exist_ok=True)
        with _file_lock(folder / ".lock"):
            if target.is_file():  # another process was faster
                return target
            resumed = part.exists()
            _receive(remote, part, progress)
            if resumed and _md5(part) != remote.md5:  # the existing part may be of another version of the file
                part.unlink()
                _receive(remote, part, progress)
            if _md5(part) != remote.md5:
                found = f"{part.stat().st_size} bytes with md5 {_md5(part)}"
                part.unlink()
                raise _failure(remote, folder, found)
            part.replace(target)
    except OSError as error:
        raise StudyError(
            f"data: {remote.name} must be written to {folder}, got {error.strerror or error}; free up disk space, or "
            f"choose another folder with --data-dir or {DATA_VARIABLE}"
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
        f"data: {remote.url} must provide {remote.name} with md5 {remote.md5}, got {found}; {more}"
        f"put the file into {folder}, or pass the folder that contains it with --data-dir or {DATA_VARIABLE}"
    )


def _receive(remote: Remote, part: Path, progress: Progress | None) -> None:
    """Append the missing bytes to the part file; reconnect after an interruption as long as there is progress."""
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
            raise _failure(remote, part.parent, f"a connection that breaks after {size} bytes", kept)


def _attempt(remote: Remote, part: Path, progress: Progress | None) -> bool:
    """Make one request and return whether the file is complete; received bytes are always kept in the part file."""
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
        return True  # the part may be complete; the caller verifies its checksum
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException):  # connection lost before the response
        return False
    with response:
        return _append(response, part, have, lambda here, total: progress and progress(remote.name, here, total))


def _append(response: http.client.HTTPResponse, part: Path, have: int, progress: Callable[[int, int], object]) -> bool:
    """Append a response to the part file, which has `have` bytes, and return whether the response was complete."""
    resumes = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if not (response.status == http.client.PARTIAL_CONTENT and resumes):
        have = 0  # a server without support for Range sends the whole file
    length = int(response.headers.get("Content-Length", 0))
    total = have + length if length else 0
    with part.open("ab" if have else "wb") as file:
        while True:
            try:
                chunk = response.read1(_CHUNK)  # `read` would discard a chunk that is interrupted
            except (OSError, http.client.HTTPException):
                return False
            if not chunk:
                return have >= total
            file.write(chunk)
            have += len(chunk)
            progress(have, total)


@contextmanager
def _file_lock(lock: Path) -> Iterator[None]:
    """Hold a file lock within a block; the operating system releases it if the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: download with one process first, `fallline data NAME`
        yield
        return
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
