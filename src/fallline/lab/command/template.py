"""A command with placeholders such as {lr} and {seed}, which the lab fills in for every run."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.errors import ArgumentError

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
_SHELL = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1")  # words that only a shell understands
_SOURCES = (".py", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt")
_LARGEST = 64 << 20  # bytes; larger files are data rather than code


@dataclass(frozen=True)
class Command:
    """A command line with placeholders: {name} is filled in, {{ and }} stand for braces.

    The text is split into words as a POSIX shell does, but it is not run by a shell. Values are filled in after the
    text is split, so that they need no quotes.

    Attributes:
        text: the command as the user wrote it.

    Raises:
        ArgumentError: the text is empty, has an open quote, or needs a shell.

    Example:
        >>> command = Command("python train.py --lr {lr} --seed={seed}")
        >>> command.placeholders
        ('lr', 'seed')
        >>> command.fill({"lr": 0.001, "seed": 3})
        ['python', 'train.py', '--lr', '0.001', '--seed=3']
    """

    text: str

    def __post_init__(self) -> None:
        words = self.words
        if not words:
            raise ArgumentError(
                "command: must not be empty, got ''; pass a command such as 'python train.py --seed {seed}'"
            )
        shell = next((word for word in words if word in _SHELL), None)
        assigned = re.match(r"[A-Za-z_]\w*=", words[0])
        if shell is not None or assigned:
            got = repr(shell) if shell is not None else f"an assignment to {assigned[0][:-1]}" if assigned else ""
            raise ArgumentError(
                f"command: must be a program with arguments, because no shell runs it, got {got}; put the command into "
                "a script, or pass it as sh -c '…'"
            )

    @property
    def words(self) -> list[str]:
        """The words of the command, with their placeholders."""
        try:
            return shlex.split(self.text, posix=os.name != "nt")
        except ValueError as error:
            raise ArgumentError(
                f"command: every quote must be closed, got {self.text!r} ({error}); add the missing quote"
            ) from None

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of the placeholders, in the order of their first use."""
        return tuple(dict.fromkeys(name for name in _PLACEHOLDER.findall(self.text) if name))

    def fill(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words of the command with a value for every placeholder; numbers are written as Python does.

        Raises:
            ArgumentError: a placeholder has no value.
        """
        known = ", ".join(f"{{{key}}}" for key in values)
        for name in self.placeholders:
            if name not in values:
                raise ArgumentError(
                    f"command: a placeholder must be one of {known}, got {{{name}}}; "
                    f"write {{{{{name}}}}} if the braces belong to the command"
                )

        return [fill_text(word, values) for word in self.words]

    def files(self, folder: Path | None = None) -> list[Path]:
        """Return the existing files that the command names and that look like code or settings.

        Args:
            folder: the working folder of the command; the current one by default.
        """
        base = Path.cwd() if folder is None else folder
        found = []
        for word in self.words:
            path = base / word.rpartition("=")[2]
            if path.suffix in _SOURCES and path.is_file() and path.stat().st_size <= _LARGEST:
                found.append(path)
        return list(dict.fromkeys(found))


def fill_text(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with its placeholders filled in; those without a value stay.

    Example:
        >>> fill_text("out/{trial}-{x}.json", {"trial": "3f2a"})
        'out/3f2a-{x}.json'
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return str(values[match[1]]) if match[1] in values else match[0]

    return _PLACEHOLDER.sub(replace, text)
