"""Run a command in a pseudo-terminal, emulate the screen that it leaves behind, and tell progress from messages."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path

_PROGRESS = re.compile(r"\w[\w ]*: \d+/\d+ trials(, (\d+ \w+ ?)+ left)?|timing the arms")
_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|[\r\n\b]|\x1b.|[^\x1b\r\n\b]")


def run_in_terminal(
    words: Sequence[object], folder: Path, columns: int = 80, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run `python -m fallline` in a terminal with these columns; return the exit code and all that was written to it.

    Args:
        words: arguments of the command.
        folder: the working directory.
        columns: width of the terminal.
        environment: environment variables to set.
    """
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    variables = {**inherited, "TERM": "xterm-256color", **(environment or {})}
    command = [sys.executable, "-m", "fallline", *map(str, words)]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=folder, env=variables) as process:
        os.close(child)
        parts = []
        try:
            while part := os.read(parent, 65536):
                parts.append(part)
        except OSError:  # Linux reports the end of a terminal as an error
            pass
        os.close(parent)
    return process.returncode, b"".join(parts).decode()


def screens(written: str, columns: int = 80) -> tuple[list[str], list[str]]:
    """Return the lines that a terminal shows at the end, and every text that a line showed on the way.

    The emulation knows what progress bars use: carriage returns, line feeds, cursor movements, and codes that erase
    parts of a line or of the screen. Codes for colours and for the cursor change no text.
    """
    lines: list[list[str]] = [[]]
    shown: dict[str, None] = {}
    row = column = 0

    def keep() -> None:
        for line in lines[row:]:
            shown.setdefault("".join(line).rstrip())

    for match in _CONTROL.finditer(written):
        text, codes, action = match[0], match[1], match[2]
        count = int(codes) if codes and codes.isdigit() else 1
        if text == "\r":
            keep()
            column = 0
        elif text == "\n":
            keep()
            row, column = row + 1, 0  # a terminal driver sends a carriage return too
        elif text == "\b":
            column = max(column - 1, 0)
        elif action == "A":
            row = max(row - count, 0)
        elif action == "B":
            row += count
        elif action == "C":
            column += count
        elif action == "D":
            column = max(column - count, 0)
        elif action == "G":
            column = count - 1
        elif action == "K":
            keep()
            line = lines[row]
            if codes in ("", "0"):
                del line[column:]
            elif codes == "2":
                line.clear()
        elif action == "J":
            keep()
            del lines[row + 1 :], lines[row][column:]
        elif not text.startswith("\x1b"):
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            line = lines[row]
            line += " " * (column - len(line))
            line[column : column + 1] = [text]
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    keep()
    final = ["".join(line).rstrip() for line in lines]
    return final, list(shown)


def without_progress(errors: str) -> list[str]:
    """Return the lines of stderr that are not the progress of a study: one line per stage where it is no terminal."""
    return [line for line in errors.splitlines() if not _PROGRESS.fullmatch(line)]
