"""Ask git about the repository around a folder."""

import subprocess
from pathlib import Path


def run_git(folder: Path, *words: str) -> bytes | None:
    """Return what git prints, or None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def find_top(folder: Path) -> Path | None:
    """Return the top folder of the git repository around a folder; None if there is none."""
    found = run_git(folder, "rev-parse", "--show-toplevel")
    return Path(found.decode().rstrip("\n")) if found else None
