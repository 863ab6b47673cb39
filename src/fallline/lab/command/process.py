"""Run a command in a process group of its own, which never outlives the process that started it."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from fallline.errors import ArgumentError

_GRACE_S = 5.0  # between SIGTERM and SIGKILL, so that a script can save what it has
_MOST = 4 << 20  # bytes of each output stream that are kept: the beginning and the end of longer ones
_SHOWN = 12  # lines of output in the description of a failure


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        code: exit code; negative for the number of the signal that ended it.
        timed_out: whether it was stopped because it exceeded its time limit.
        seconds: duration.
        stdout, stderr: its output; the middle is left out if it is long.
    """

    code: int
    timed_out: bool
    seconds: float
    stdout: str
    stderr: str

    @property
    def problem(self) -> str:
        """Why the command failed, in a few words; "" if it ended with exit code 0."""
        if self.timed_out:
            return f"exceeded its time limit and was stopped after {self.seconds:.0f} s"
        if self.code < 0:
            return f"was ended by signal {_signal_name(-self.code)}"
        return f"ended with exit code {self.code}" if self.code else ""

    @property
    def last_lines(self) -> str:
        """The last lines of standard error, or of standard output if there are none."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-_SHOWN:])


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return str(number)


def run_process(
    words: Sequence[str],
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run a command to its end and return its exit code and output.

    All processes that the command has started are killed when it ends, when it exceeds `timeout`, and when the calling
    process ends, even if the calling process is killed.

    Args:
        words: program and arguments.
        timeout: time limit in seconds; None for no limit.
        environment: variables that are added to the environment.
        folder: working folder; the current one by default.

    Raises:
        ArgumentError: the program does not exist or may not be run.
    """
    began = time.monotonic()
    with cast(BinaryIO, tempfile.TemporaryFile()) as out, cast(BinaryIO, tempfile.TemporaryFile()) as err:
        try:
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be run"
            raise ArgumentError(
                f"command: the program must exist and be executable, got {words[0]!r}, which {reason}; give its full "
                "path, or activate its environment first"
            ) from None
        with _killed_with_us(process):
            timed_out = False
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                _end(process)
        seconds = time.monotonic() - began
        return Finished(process.returncode, timed_out, seconds, _read(out), _read(err))


@contextlib.contextmanager
def _killed_with_us(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill the command's process group after the block, and also if this process dies within the block.

    A shell waits for the end of a pipe that only this process holds, and then kills the group.
    """
    if os.name == "nt":
        try:
            yield
        finally:
            process.kill()
        return
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'read _; kill -KILL "-$0"', str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        _kill_group(process, signal.SIGKILL)
        process.wait()
        guard.kill()
        guard.communicate()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the process group to end, and kill it if it does not."""
    if os.name == "nt":
        process.kill()
        process.wait()
        return
    _kill_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
        return
    _kill_group(process, signal.SIGKILL)
    process.wait()


def _kill_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _read(file: BinaryIO) -> str:
    """Return the output in a file, without its middle if it is long."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= _MOST:
        data = file.read()
    else:
        head = file.read(_MOST // 2)
        file.seek(size - _MOST // 2)
        data = head + f"\n… {size - _MOST} bytes left out …\n".encode() + file.read()
    return data.decode("utf-8", errors="replace")
