"""The folders in which Fallline keeps data sets and compiled kernels."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent  # the files of Fallline itself
DATA_VARIABLE = "FALLLINE_DATA"  # of the environment, so that worker processes and clusters' jobs inherit it


def cache_folder() -> Path:
    """Return where compiled kernels are kept: `FALLLINE_CACHE_DIR`, or the user's cache folder."""
    chosen = os.environ.get("FALLLINE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    return Path(home or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fallline"


def data_folder() -> Path:
    """Return the folder of the data: FALLLINE_DATA where it is set, else a folder in the user's cache."""
    return Path(os.environ.get(DATA_VARIABLE) or cache_folder() / "data").expanduser()
