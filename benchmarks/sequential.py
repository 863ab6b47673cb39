"""Simulate studies that stop as soon as they are decided, and write docs/sequential.md.

    python benchmarks/sequential.py          # 3 minutes on one core

The nominal levels in `fallline.lab.design.group_sequential` are recomputed from series without a difference. False
verdicts and power are simulated with paired differences whose true mean is known.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtr

from fallline.lab.analysis.variance import FixedTestSet
from fallline.lab.analysis.verdicts import Verdict, compare_all
from fallline.lab.design.group_sequential import nominal_level

LOOKS = (4, 8, 12, 16)
LEVEL = 0.05
NULL_SERIES, PAIRS, REAL_STUDIES = 40_000_000, 200_000, 2_000
CHUNK = 200_000
PAGE = Path(__file__).parents[1] / "docs" / "sequential.md"


def p_values(differences: np.ndarray, examples: float = 0.0) -> np.ndarray:
    """Return the two-sided p (series, looks) of the t-tests on differences (series, 16) with SD 1.

    Args:
        differences: by series and seed.
        examples: variance that the examples add to that of the mean, known to the test.
    """
    found = []
    for n in LOOKS:
        part = differences[:, :n]
        error = np.sqrt(part.var(1, ddof=1) / n + examples)
        found.append(2 * stdtr(n - 1, -np.abs(part.mean(1)) / error))
    return np.stack(found, 1)


def null_p_values(count: int, seed: int) -> np.ndarray:
    """Return p-values (count, looks) of series without a difference."""
    draw = np.random.default_rng(seed)
    sizes = [CHUNK] * (count // CHUNK)
    return np.concatenate([p_values(draw.standard_normal((size, LOOKS[-1]))).astype(np.float32) for size in sizes])


def calibrate(p: np.ndarray, level: float) -> list[float]:
    """Return the nominal levels with which a quarter of `level` is spent at each look."""
    alive, bounds = np.ones(len(p), bool), []
    for look in range(len(LOOKS)):
        spent = round(level / len(LOOKS) * len(p))
        bounds.append(float(np.partition(p[alive, look], spent)[spent]))
        alive &= p[:, look] >= bounds[-1]
    return bounds


def rejections(p: np.ndarray, bounds: Sequence[float]) -> tuple[float, float]:
    """Return the share of series that are rejected at some look, and the mean number of seeds at which they stop."""
    hits = p < np.asarray(bounds)
    found = hits.any(1)
    stopped = np.where(found, np.asarray(LOOKS)[hits.argmax(1)], LOOKS[-1])
    return float(found.mean()), float(stopped.mean())


def power(effect: float, examples: float, seed: int) -> tuple[float, float, float]:
    """Return power and mean seeds of the sequential design, and power of 16 fixed seeds, for an effect in SD of a pair.

    Args:
        effect: true mean of a difference.
        examples: variance of the error that all seeds share because they are tested on the same examples.
        seed: of the simulation.
    """
    draw = np.random.default_rng(seed)
    shared = math.sqrt(examples) * draw.standard_normal((CHUNK, 1))
    p = p_values(effect + shared + draw.standard_normal((CHUNK, LOOKS[-1])), examples)
    share, seeds = rejections(p, [nominal_level(LEVEL, n, LOOKS) for n in LOOKS])
    return share, seeds, float((p[:, -1] < LEVEL).mean())


def real_study(draw: np.random.Generator, arms: int, items: int = 120) -> tuple[bool, int]:
    """Return whether a study of equal arms reports a difference, by the code of the lab, and its number of seeds.

    Losses are a common level, a seed's effect per arm, an example's difficulty that differs by arm, and noise.
    """
    names = [f"arm {i}" for i in range(arms)]
    level = 2 + 0.5 * draw.standard_normal(items)
    tables = {}
    for name in names:
        of_seeds, of_items = 0.1 * draw.standard_normal((LOOKS[-1], 1)), 0.3 * draw.standard_normal(items)
        tables[name] = level + of_seeds + of_items + 0.3 * draw.standard_normal((LOOKS[-1], items))
    for seeds in LOOKS:
        values = {name: table[:seeds].mean(1).tolist() for name, table in tables.items()}

        def design(arm: str, baseline: str, n: int = seeds) -> FixedTestSet:
            return FixedTestSet(list(tables[arm][:n]), list(tables[baseline][:n]))

        results = compare_all(values, names[0], log_ratio=False, design=design, looks=LOOKS).values()
        if all(result.is_decided() for result in results):
            break
    return any(result.verdict in (Verdict.BETTER, Verdict.WORSE) for result in results), seeds


def main() -> None:
    """Run the simulations and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    lines = [
        "# Stopping early",
        "",
        "Written by `python benchmarks/sequential.py`. `fallline compare --seeds 4..16` evaluates the comparisons "
        "after 4, 8, 12 and 16 seeds and stops as soon as every one is decided. This page shows how often such a study "
        "reports a difference that does not exist, and how many seeds it saves.",
        "",
        f"## Nominal levels, from {NULL_SERIES:,} simulated series without a difference",
        "",
        "| level over all looks | " + " | ".join(f"after {n}" for n in LOOKS) + " | in the code |",
        "|--:|" + "--:|" * (len(LOOKS) + 1),
    ]
    null = null_p_values(NULL_SERIES, seed=1)
    for level in (LEVEL, LEVEL / 2, LEVEL / 3):
        used = [nominal_level(level, n, LOOKS) for n in LOOKS]
        found = " | ".join(f"{bound:.5f}" for bound in calibrate(null, level))
        lines.append(f"| {level:.4f} | {found} | {', '.join(f'{bound:.5f}' for bound in used)} |")
    fresh = null_p_values(PAIRS, seed=2)
    wrong, _ = rejections(fresh, [nominal_level(LEVEL, n, LOOKS) for n in LOOKS])
    naive, _ = rejections(fresh, [LEVEL] * len(LOOKS))
    lines += [
        "",
        f"In {PAIRS:,} further series without a difference, a study reports one in {100 * wrong:.2f} % (target: at "
        f"most 5 %). Testing at 5 % at every look would give {100 * naive:.1f} %.",
        "",
        f"The code of the lab was also run on {REAL_STUDIES:,} simulated studies per row. Their arms differ by chance "
        "alone and are tested on the same 120 examples (target: at most 6 % of the studies report a difference):",
        "",
        "| arms | studies with a false difference | mean seeds |",
        "|--:|--:|--:|",
    ]
    draw = np.random.default_rng(3)
    for arms in (2, 3, 5):
        studies = [real_study(draw, arms) for _ in range(REAL_STUDIES)]
        share, seeds = np.mean([s[0] for s in studies]), np.mean([s[1] for s in studies])
        lines.append(f"| {arms} | {100 * share:.1f} % | {seeds:.1f} |")
    lines += [
        "",
        "## Power",
        "",
        "The effect is in units of the standard deviation (SD) of a pair of runs, and the variance due to the test "
        "examples in units of its square. Target: for an effect of 1.5 SD, at least 80 % power with on average at most "
        "65 % of 16 seeds, if the variance due to the examples is at most 0.05.",
        "",
        "| effect | variance of examples | power | mean seeds | of 16 | power of 16 fixed seeds |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for effect in (0.75, 1.0, 1.5, 2.0):
        for examples in (0.0, 0.05, 0.1, 0.2):
            share, seeds, fixed = power(effect, examples, seed=4)
            lines.append(
                f"| {effect:g} | {examples:g} | {100 * share:.1f} % | {seeds:.1f} | {100 * seeds / 16:.0f} % | "
                f"{100 * fixed:.1f} % |"
            )
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
