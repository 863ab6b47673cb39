"""Hash the user's files that a trial depends on, and check them before and after the trial."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fallline.errors import StudyError
from fallline.lab.user_code.code_digest import agrees, code_digest
from fallline.lab.user_code.import_path import is_here, is_path, load_module, load_object
from fallline.lab.user_code.imports import (
    RecordingLoader,
    digest,
    digest_of,
    modules_used,
    recorded,
    user_modules,
)

_loaded_for: dict[str, set[str]] = {}  # by `_key` of a place: modules first imported while it was tried out
_first_seen: dict[str, tuple[Any, str | None]] = {}  # by module: its spec and the digest of its content, if known


def sources_of(place: str) -> dict[str, str]:
    """Return the hashes of the user's files that a named object depends on, by path.

    Paths are relative to the current folder for files below it. The result is empty for a built-in name.

    Args:
        place: FILE.py:NAME, package.module:NAME or here:NAME; for here:NAME, the code is hashed too.

    Raises:
        ArgumentError: the object does not exist.
        StudyError: a file was edited after this process imported it, so the loaded code differs from the file.
    """
    if not is_path(place):
        return {}
    found: dict[str, str] = {}
    roots = _loaded_for.get(_key(place), set()) & sys.modules.keys()
    if is_here(place):
        found[place], used = code_digest(load_object("task", place))
        roots |= used
    else:
        roots.add(load_module("task", place).__name__)
    files = modules_used(roots)
    for path in sorted(set(files.values())):
        if (content := digest_of(path)) is not None:
            found[_name(path)] = content
    if stale := changes(found):
        raise StudyError(
            f"task: the loaded code of {place} must match its files, got {', '.join(stale)}; restart this process "
            "(in a notebook, restart the kernel)"
        )
    return found


def _key(place: str) -> str:
    """Return a key that differs between objects of the same name in different folders."""
    return place if is_here(place) else f"{Path.cwd()}/{place}"


@contextlib.contextmanager
def imports_for(place: str) -> Iterator[None]:
    """Record the user's modules that are first imported within the block as dependencies of `place`."""
    key, before = _key(place), set(user_modules())
    try:
        with recorded():
            yield
    finally:
        _loaded_for.setdefault(key, set()).update(user_modules().keys() - before)


def changes(sources: Mapping[str, str]) -> list[str]:
    """Return the changes on disk or in memory relative to these hashes, such as `helper.py was edited`."""
    found = []
    loaded: dict[Path, list[str]] = {}
    for name, path in user_modules().items() if sources else ():
        loaded.setdefault(path, []).append(name)
    for source, wanted in sources.items():
        if is_here(source):  # its definition cannot change in this process while a study runs
            continue
        path = Path(source).resolve()
        if (content := digest_of(path)) != wanted:
            found.append(f"{source} was {'removed' if content is None else 'edited'}")
        elif any(_loaded_digest(name, path) != wanted for name in loaded.get(path, ())):
            found.append(f"{source} was edited after it was imported")
    return found


@contextlib.contextmanager
def unchanged(sources: Mapping[str, str], trial: str) -> Iterator[None]:
    """Check before and after a block that the user's files match the hashes in a trial's specification.

    Args:
        sources: hashes by path.
        trial: name of the trial in the error message.

    Raises:
        StudyError: a file has changed, either on disk or as loaded in this process.
    """
    fixed = {s if is_here(s) else str(Path(s).absolute()): content for s, content in sources.items()}
    names = dict(zip(fixed, sources, strict=True))  # absolute, because the user's code may change the current folder

    def check(error: Exception | None = None) -> None:
        if found := changes(fixed):
            for path, name in names.items():
                found = [text.replace(path, name, 1) for text in found]
            raise code_change_error(found, trial) from error

    check()
    try:
        with recorded():
            yield
    except Exception as error:
        check(error)  # an edit in progress may be the cause of the failure
        raise
    check()


def code_change_error(what: list[str], trial: str) -> StudyError:
    """Return the error for a trial whose code differs from the code of the study."""
    return StudyError(
        f"The code of the study changed while it ran: {'; '.join(what)}. {trial} was not stored. Undo the change and "
        "rerun the command to resume, or rerun it with --fork to use the new code; trials that are equal are reused"
    )


def forget_edited() -> bool:
    """Unload the modules that Fallline has imported if any of their files was edited; return whether one was."""
    ours = {name: path for name, path in user_modules().items() if isinstance(_loader(name), RecordingLoader)}
    if all(_loader(name).digest == digest_of(path) for name, path in ours.items()):
        return False
    for name in ours:
        del sys.modules[name]
    return True


def _name(path: Path) -> str:
    here = Path.cwd().resolve()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _loader(name: str) -> Any:
    return getattr(getattr(sys.modules[name], "__spec__", None), "loader", None)


def _loaded_digest(name: str, path: Path) -> str | None:
    """Return the digest of the content from which a module was loaded; None if it is unknown.

    For a module that Fallline did not load itself, this is the content of its file when first seen, provided that it
    agrees with the loaded code.
    """
    loader = _loader(name)
    if isinstance(loader, RecordingLoader) and loader.digest is not None:
        return loader.digest
    module = sys.modules[name]
    spec = getattr(module, "__spec__", None)
    known = _first_seen.get(name)
    if known is None or known[0] is not spec:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        known = spec, digest(content) if agrees(module, content) else None
        _first_seen[name] = known
    return known[1]
