"""Put tests/ on the import path, so that every test can say `from oracles import ...`."""

import sys
from pathlib import Path

from hypothesis import settings

# pytest's default import mode has done it already; `--import-mode=importlib` does not.
if (TESTS := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, TESTS)

# A busy machine is no failure, and every run tries the same inputs.
settings.register_profile("fallline", deadline=None, derandomize=True)
settings.load_profile("fallline")
