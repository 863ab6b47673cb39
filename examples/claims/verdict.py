"""What the scripts of this folder share: a claim with its criterion, the verdict on it, and the file of results."""

import csv
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import fallline as fl
from fallline.lab.analysis.statistics import Comparison, summarize
from fallline.lab.analysis.verdicts import Result

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
RUNS = FOLDER.parents[1] / "fallline-runs" / "claims"  # the studies; a second run of a script reads them

REPRODUCED, NOT_REPRODUCED, NOT_DECIDABLE = "reproduced", "not reproduced", "not decidable here"


@dataclass(frozen=True)
class Claim:
    """A published claim about a quantity, with the criterion that was fixed before the quantity was measured.

    Attributes:
        name: name of the script.
        sentence: the claim.
        source: authors, year and arXiv number.
        criterion: the quantity and its bounds, in words.
        low, high: the claim says that the quantity is between these bounds.
        unit: unit of the quantity, "%" or "times" for example.
    """

    name: str
    sentence: str
    source: str
    criterion: str
    low: float = -math.inf
    high: float = math.inf
    unit: str = "%"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval over n independent seeds."""

    n: int
    estimate: float
    low: float
    high: float


def interval(
    values: Sequence[float], convert: Callable[[float], float] = lambda x: x, confidence: float = 0.95
) -> Interval:
    """Return the t interval of the mean of values, one per seed, converted by an increasing function."""
    summary = summarize(values, confidence)
    return Interval(summary.n, *map(convert, (summary.mean, summary.low, summary.high)))


def change(result: Result) -> Interval | None:
    """Return the change in percent that a study found for an arm, with its interval; None if a seed failed."""
    c = result.comparison
    return c and Interval(c.n, *map(Comparison.percent, (c.difference, c.low, c.high)))


def judge(claim: Claim, found: Interval | None) -> str:
    """Return the verdict: an interval that contains or touches a bound of the claim, or none at all, decides nothing.

    Example:
        >>> lower = Claim("name", "A is better than B", "source", "change of the loss below 0", high=0.0)
        >>> judge(lower, Interval(8, -3.0, -5.0, -1.0)), judge(lower, Interval(8, -3.0, -6.0, 0.0))
        ('reproduced', 'not decidable here')
    """
    if found is None or not all(map(math.isfinite, (found.estimate, found.low, found.high))):
        return NOT_DECIDABLE
    if claim.low < found.low and found.high < claim.high:
        return REPRODUCED
    return NOT_REPRODUCED if found.high < claim.low or found.low > claim.high else NOT_DECIDABLE


def record(claim: Claim, found: Interval | None, text: str) -> str:
    """Print the verdict, write it to the file of results in place of an earlier one, and return it.

    Args:
        claim: the claim.
        found: the estimate, or None if there is none, because runs failed.
        text: what was found, in words; `{}` in it is replaced by the estimate with its unit.
    """
    row = dict.fromkeys(("n", "estimate", "low", "high"), "")
    if found is not None:
        row = {"n": str(found.n)} | {key: f"{getattr(found, key):.5g}" for key in ("estimate", "low", "high")}
    verdict = judge(claim, found)
    row = {
        "name": claim.name,
        "claim": claim.sentence,
        "source": claim.source,
        "criterion": claim.criterion,
        "found": text.format(show(row["estimate"], claim.unit)),
        **row,
        "unit": claim.unit,
        "claimed_low": f"{claim.low:g}",
        "claimed_high": f"{claim.high:g}",
        "verdict": verdict,
    }
    print(f"{claim.sentence} ({claim.source})\ncriterion: {claim.criterion}\nfound: {row['found']}")
    print(f"n = {row['n'] or '–'}, interval {row['low']} to {row['high']} {claim.unit}: {verdict}")
    rows = sorted([*(r for r in results() if r["name"] != claim.name), row], key=lambda r: r["name"])
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return verdict


def results() -> list[dict[str, str]]:
    """Return the rows of the file of results, one per claim."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def show(number: str, unit: str) -> str:
    """Return a number of the file of results with three digits and its unit, and with its sign if it is a change.

    Example:
        >>> show("-3.1416", "%"), show("0.98765", "of the limit"), show("", "%")
        ('−3.14 %', '0.988 of the limit', '–')
        >>> show("1", "times"), show("123.4", "%")
        ('1.00 times', '+123 %')
    """
    if not number:
        return "–"
    digits = f"{float(number):{'+' if unit == '%' else ''}#.3g}".rstrip(".")
    return f"{digits} {unit}".replace("-", "−")


def study(folder: str, *arguments: Any, **options: Any) -> fl.lab.Study:
    """Run a study with `fl.compare` in this process, or read it from its folder if it has been run before.

    Several scripts may use one folder: with `fork`, a study reuses the trials of the others that are equal.
    """
    return fl.compare(*arguments, out=RUNS / folder, jobs=0, fork=True, progress=False, **options)


def landscape_example(name: str) -> ModuleType:
    """Return a script of examples/landscape as a module, whose measurement a claim repeats on several seeds."""
    folder = str(FOLDER.parent / "landscape")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
