"""The verdicts of examples/claims follow from intervals and criteria, and its page shows the stored results."""

import doctest
import importlib
import math
import runpy
import sys
from pathlib import Path

import pytest

from support.imports import modules_of

FOLDER = Path(__file__).parents[2] / "examples" / "claims"


@pytest.fixture
def load(monkeypatch):
    """A module of the folder by name, as it is imported when one of its scripts runs."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "path", list(sys.path))  # the scripts add the folder of another example
    with modules_of(FOLDER, FOLDER.parent / "landscape"):
        yield importlib.import_module


def test_the_modules_of_the_scripts_are_forgotten_and_no_others(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    main = sys.modules["__main__"]
    with modules_of(FOLDER):
        importlib.import_module("verdict")
        runpy.run_path(str(FOLDER / "__main__.py"), run_name="claims")
        assert "verdict" in sys.modules
    assert "verdict" not in sys.modules
    assert sys.modules["__main__"] is main  # without it, no process can be spawned


@pytest.fixture
def page(load):
    """The functions of the command that writes the page."""
    return runpy.run_path(str(FOLDER / "__main__.py"), run_name="claims")


def claim(verdict, **bounds):
    return verdict.Claim("name", "A is better than B", "source", "criterion", **bounds)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-5.0, -1.0, "reproduced"),
        (-5.0, 0.0, "not decidable here"),  # touches the bound from inside
        (-1.0, 1.0, "not decidable here"),
        (0.0, 1.0, "not decidable here"),  # touches it from outside
        (0.5, 1.0, "not reproduced"),
        (-math.inf, -1.0, "not decidable here"),
        (math.nan, math.nan, "not decidable here"),
    ],
)
def test_an_interval_decides_a_one_sided_claim(load, low, high, expected):
    verdict = load("verdict")
    assert verdict.judge(claim(verdict, high=0.0), verdict.Interval(8, (low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.95, 1.05, "reproduced"),
        (0.9, 1.0, "not decidable here"),
        (0.5, 1.5, "not decidable here"),
        (0.5, 0.8, "not reproduced"),
        (1.2, 1.3, "not reproduced"),
    ],
)
def test_an_interval_decides_a_claim_with_two_bounds(load, low, high, expected):
    verdict = load("verdict")
    assert verdict.judge(claim(verdict, low=0.9, high=1.1), verdict.Interval(8, 1.0, low, high)) == expected


def test_the_docstrings_give_what_they_say(load):
    tried = doctest.testmod(load("verdict"))
    assert tried.attempted and not tried.failed


def test_nothing_is_decided_without_an_interval(load):
    verdict = load("verdict")
    assert verdict.judge(claim(verdict, high=0.0), None) == "not decidable here"


def test_intervals_are_converted_at_their_ends(load):
    verdict = load("verdict")
    found = verdict.interval([math.log(2), math.log(8)], math.exp)
    assert found.n == 2 and found.estimate == pytest.approx(4)
    assert found.low * found.high == pytest.approx(16) and found.low < 2 < 8 < found.high


def test_a_result_replaces_an_earlier_one(load, monkeypatch, tmp_path, capsys):
    verdict = load("verdict")
    monkeypatch.setattr(verdict, "RESULTS", tmp_path / "results.csv")
    assert verdict.record(claim(verdict, high=0.0), None, "some runs failed") == "not decidable here"
    assert verdict.record(claim(verdict, high=0.0), verdict.Interval(4, -2.0, -3.0, -1.0), "loss {}") == "reproduced"
    (row,) = verdict.results()
    assert (row["found"], row["n"], row["low"], row["claimed_high"]) == ("loss −2.00 %", "4", "-3", "0")
    assert "interval -3 to -1 %: reproduced" in capsys.readouterr().out


def test_every_script_has_a_result_or_is_named_as_not_run_yet(load, page):
    rows = {row["name"] for row in load("verdict").results()}
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert rows <= {*page["scripts"]()} and len(rows) >= 12
    assert all(f"({name}.py)" in text for name in page["scripts"]())


def test_results_belong_to_the_criteria_that_stand_in_the_scripts(load):
    for row in load("verdict").results():
        stated = load(row["name"]).CLAIM
        assert (row["name"], row["unit"]) == (stated.name, stated.unit)
        assert (row["claim"], row["source"], row["criterion"]) == (stated.sentence, stated.source, stated.criterion)
        assert (float(row["claimed_low"]), float(row["claimed_high"])) == (stated.low, stated.high), row["name"]


def test_the_stored_verdicts_are_those_of_the_stored_intervals(load):
    verdict = load("verdict")
    for row in verdict.results():
        found = (
            verdict.Interval(int(row["n"]), *(float(row[k]) for k in ("estimate", "low", "high"))) if row["n"] else None
        )
        assert row["verdict"] == verdict.judge(load(row["name"]).CLAIM, found), row["name"]
        if row["verdict"] == "reproduced":
            assert found is not None and found.n > 1 and math.isfinite(found.high - found.low)
            assert float(row["claimed_low"]) < found.low <= found.high < float(row["claimed_high"])


def test_the_page_shows_the_stored_results(page):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page["with_table"](text) == text
    assert page["with_table"](text.replace("**reproduced** |", "**proved** |")) == text  # the table is found


@pytest.mark.slow
def test_a_script_measures_and_stores_its_verdict(load, monkeypatch, tmp_path):
    verdict = load("verdict")
    monkeypatch.setattr(verdict, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(verdict, "RESULTS", tmp_path / "results.csv")
    assert load("loss_scale").main() == "reproduced"
    assert [row["name"] for row in verdict.results()] == ["loss_scale"]
