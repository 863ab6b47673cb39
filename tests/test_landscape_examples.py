"""The studies of the landscape show what theory says, within bands that are justified here."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "landscape"


@pytest.fixture
def study(monkeypatch):
    """A study by name, its folder on the path as when it is run as a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in [path.stem for path in FOLDER.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_steps_out_of_a_saddle_are_those_of_the_linear_recursion(study):
    rows = study("saddle_escape").main()
    for _, _, steps, expected in rows:
        # Whole steps, and y^4/4 slows the last ones: y²·steps ≈ 0.01 of a factor at |y| = 0.1.
        assert expected <= steps <= expected + 2
    plain, momentum = (sum(row[2] for row in rows if row[0] == beta) for beta in (0.0, 0.9))
    assert momentum < plain / 5


@pytest.mark.slow
def test_steps_grow_with_the_condition_number_and_with_its_root(study):
    found = study("conditioning").main()
    # The heavy ball's best pair is a double root: its error carries a factor of the step number, which bends the
    # exponent upwards by about 0.03 here.
    assert found["SGD"] == pytest.approx(1, abs=0.02) and found["momentum"] == pytest.approx(0.5, abs=0.06)
