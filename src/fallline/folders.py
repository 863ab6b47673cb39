"""The folders in which Fallline keeps data sets and compiled kernels."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent  # the source files of Fallline
DATA_VARIABLE = "FALLLINE_DATA"  # an environment variable, so that worker processes and cluster jobs inherit it


def cache_folder() -> Path:
    """Return the folder of compiled kernels: `FALLLINE_CACHE_DIR`, or a folder in the user's cache."""
    override = os.environ.get("FALLLINE_CACHE_DIR")
    if override:
        return Path(override)
    home = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    return Path(home or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fallline"


def data_folder() -> Path:
    """Return the folder of data sets: `FALLLINE_DATA` if it is set, else a folder in the user's cache."""
    return Path(os.environ.get(DATA_VARIABLE) or cache_folder() / "data").expanduser()
