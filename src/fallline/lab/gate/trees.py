"""Copies of the user's files, so that no edit enters a proposal that is running."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import ArgumentError, GateError
from fallline.lab.command.git import find_top, run_git

_CODE = (".py", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt")
_LARGEST = 1 << 20  # bytes; larger files that are not code are linked
_LEFT_OUT = {".git", "__pycache__"}  # bytecode of the original files could be loaded in place of an edited copy


@dataclass(frozen=True)
class Tree:
    """A copy of the user's files.

    Attributes:
        root: folder of the copy.
        folder: working folder of the commands, relative to the root.
        digest: hash of the names and contents of the copied files.
    """

    root: Path
    folder: str
    digest: str


def copy_tree(folder: Path, store: Path) -> Tree:
    """Copy the files around a working folder into `store`, unless an equal copy is there already.

    In a git repository these are all files that git does not ignore. Elsewhere they are the files in the folder. Large
    files that are not code, and what git ignores (data, environments), are linked.

    Raises:
        GateError: the files cannot be copied.
    """
    folder = folder.resolve()
    root = find_top(folder) or folder
    session = store.parent.resolve()
    store.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=store))
    try:
        for path in _files(root, session):
            _copy(root, path, draft / path)
        digest = hash_tree(draft)
        target = store / digest
        (draft / folder.relative_to(root)).mkdir(parents=True, exist_ok=True)
        _link_ignored(root, draft, session)
        draft.chmod(0o755)  # mkdtemp makes it private to its owner, but folders of sessions are shared
        if not target.exists():
            draft.rename(target)
    except OSError as error:
        raise GateError(f"The files in {str(root)!r} cannot be copied to {str(store)!r} ({error})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Tree(target, folder.relative_to(root).as_posix(), digest)


def check_out(revision: str, folder: Path, store: Path) -> Tree:
    """Check a revision out into a git worktree in `store`, unless it is there already.

    Raises:
        ArgumentError: the folder is not in a git repository, or the revision or the folder in it does not exist.
    """
    folder = folder.resolve()
    root = find_top(folder)
    if root is None:
        raise ArgumentError(
            f"baseline_rev: must be used in a git repository, got {revision!r} in {str(folder)!r}; run the command in "
            "the repository"
        )
    found = run_git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found is None:
        raise ArgumentError(f"baseline_rev: must be a revision of {str(root)!r}, got {revision!r}; try HEAD")
    commit = found.decode().strip()
    target = store / f"rev-{commit[:12]}"
    if not target.exists():
        store.mkdir(parents=True, exist_ok=True)
        run_git(root, "worktree", "prune")
        if run_git(root, "worktree", "add", "--detach", str(target), commit) is None:
            raise GateError(f"git cannot make a worktree of {revision} in {str(target)!r}; run `git worktree list`")
        _link_ignored(root, target, store.parent.resolve())
    inside = folder.relative_to(root).as_posix()
    if not (target / inside).is_dir():
        raise ArgumentError(f"baseline_rev: must contain the folder {inside!r}, got {revision!r}; choose a later one")
    return Tree(target, inside, hash_tree(target))


def hash_tree(root: Path) -> str:
    """Return a hash of the names and contents of the files below a folder, without those that a copy only links."""
    found = hashlib.sha256()
    for place, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(set(names) - _LEFT_OUT):  # .git is a file in a worktree
            path = Path(place) / name
            if _is_copied(path):
                content = path.read_bytes()
                found.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def _is_copied(path: Path) -> bool:
    """Return whether a file is copied; large files that are not code, and whatever is not a file, are linked."""
    return path.is_file() and not path.is_symlink() and (path.suffix in _CODE or path.stat().st_size <= _LARGEST)


def _files(root: Path, session: Path) -> Iterator[Path]:
    """Yield the paths of the files to copy, relative to the root and without those of the session."""
    listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        paths = sorted({Path(os.fsdecode(name)) for name in listed.split(b"\0") if name})
    else:
        paths = []
        for place, folders, names in os.walk(root):
            kept = [name for name in folders if _is_code_folder(Path(place) / name)]
            folders[:] = kept
            linked = [name for name in kept if (Path(place) / name).is_symlink()]
            paths += [(Path(place) / name).relative_to(root) for name in (*names, *linked)]
    for path in paths:
        inside = not _LEFT_OUT.isdisjoint(path.parts) or (root / path).absolute().is_relative_to(session)
        if not inside and os.path.lexists(root / path):
            yield path


def _is_code_folder(folder: Path) -> bool:
    return folder.name not in _LEFT_OUT and not (folder / "pyvenv.cfg").exists()


def _copy(root: Path, path: Path, target: Path) -> None:
    """Copy a file, or link it."""
    source = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_copied(source):
        shutil.copy2(source, target)
    elif source.is_symlink() and not source.readlink().is_absolute() and source.resolve().is_relative_to(root):
        target.symlink_to(source.readlink())
    else:
        target.symlink_to(source.resolve())


def _link_ignored(root: Path, target: Path, session: Path) -> None:
    """Link the files and folders that git ignores, such as data, and environments where there is no git."""
    listed = run_git(root, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    if listed is not None:
        paths = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    else:
        paths = [path.parent.relative_to(root) for path in root.glob("*/pyvenv.cfg")]
    for path in paths:
        link, source = target / path, root / path
        if not _LEFT_OUT.isdisjoint(path.parts) or session.is_relative_to(source) or source.is_relative_to(session):
            continue
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve(), target_is_directory=source.is_dir())
