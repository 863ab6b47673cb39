"""The ledger of a session: an append-only file of JSON lines with one writer at a time."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fallline.errors import GateError

LEDGER = "ledger.jsonl"
_LOCK = "lock"


class Ledger:
    """The records of a session, in the order in which they were written.

    Args:
        folder: folder of the session; it must exist.

    Raises:
        GateError: the file cannot be read, or a line other than the last one of a killed process is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        self.records: list[dict[str, Any]] = []
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise GateError(f"The ledger {str(self.path)!r} cannot be read ({error}); restore it from a copy") from None
        for number, line in enumerate(text.split("\n"), 1):
            record = _parse(line)
            if record is not None:
                self.records.append(record)
            elif line.startswith('{"kind": "') and not line.endswith("}"):  # cut off when a process was killed
                continue
            elif line:
                raise GateError(
                    f"Line {number} of the ledger {str(self.path)!r} is damaged, so the error budget that is left is "
                    "unknown; restore the file from a copy, or start a new session with another --session"
                )

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write a record to the disk and return it.

        Raises:
            GateError: it cannot be written.
        """
        record = {"kind": kind, **fields}
        line = json.dumps(record, allow_nan=False) + "\n"
        try:
            with self.path.open("ab+", buffering=0) as file:
                if file.seek(0, os.SEEK_END) > 0:
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else "\n" + line  # a killed process left a partial line
                file.write(line.encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise GateError(
                f"The ledger {str(self.path)!r} cannot be written ({error.strerror or error}). Free up disk space and "
                "rerun the same command to resume"
            ) from None
        self.records.append(record)
        return record

    def find(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the records of a kind whose fields have these values."""
        return [r for r in self.records if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())]


def _parse(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and "kind" in record:
            return record
    return None


@contextlib.contextmanager
def lock_session(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a session within a block.

    The operating system releases the lock of a process that dies. Where it has no such locks, or if the holder runs on
    another machine, the host and process id in the file decide.

    Raises:
        GateError: another process holds the lock.
    """
    path = folder / _LOCK
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        host, _, pid = file.read().strip().rpartition(" ")
        if not _take(file.fileno()) or (host and (host != platform.node() or os.name == "nt")):
            raise GateError(
                f"Session {str(folder)!r} is in use by process {pid or 'unknown'} on {host or platform.node()}. Wait "
                f"until it has finished; if it no longer exists, delete {str(path)!r}"
            )
        file.truncate(0)
        file.write(f"{platform.node()} {os.getpid()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            _release(file.fileno())


def _take(handle: int) -> bool:
    """Take the lock of an open file, and return whether it was free."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _release(handle: int) -> None:
    """Release the lock of an open file; closing it is not enough while another thread starts a process."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)
