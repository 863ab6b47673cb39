"""What a test imports from a folder, forgotten afterwards, so that another test imports its own files."""

import contextlib
import sys
from pathlib import Path


@contextlib.contextmanager
def modules_of(*folders):
    """Forget, at the end, the modules that the block has imported from files in the folders, and no other."""
    before = set(sys.modules)
    yield
    places = [Path(folder).resolve() for folder in folders]
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and any(Path(file).resolve().is_relative_to(place) for place in places):
            del sys.modules[name]
