"""Simulate sessions of the referee, and write docs/gate-coverage.md.

    python benchmarks/gate.py          # some minutes on one core

Everything is judged by the rule and the budget of `fallline.lab.gate`; only the losses are simulated.
"""

import argparse
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from scipy.stats import nct

from fallline.lab.gate.budget import TOTAL, next_level
from fallline.lab.gate.rule import Rule, is_shared, run_test

SESSIONS, PROPOSALS, MOST = 1_000, 100, 32
SERIES = 200_000
PAGE = Path(__file__).parents[1] / "docs" / "gate-coverage.md"
Draw = Callable[[np.random.Generator, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


def run_series(rule: Rule, baseline: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each series (count, most) is kept, and the number of pairs at which it stops."""
    kept, stopped = np.zeros(len(baseline), bool), np.full(len(baseline), rule.most)
    running = np.ones(len(baseline), bool)
    for n, nominal in zip(rule.looks, rule.nominal, strict=True):
        p = run_test(baseline[running, :n], candidate[running, :n], rule.margin, rule.paired).p
        success = p < nominal
        stops = success | (p >= rule.hopeless(n))
        where = np.flatnonzero(running)
        kept[where[success]] = True
        stopped[where[stops]] = n
        running[where[stops]] = False
    return kept, stopped


def normal(shared: float = 0.0, ratio: float = 1.0, gain: float = 0.0) -> Draw:
    """Return normal losses with a correlation of the arms, a ratio of their SDs, and a true improvement."""

    def draw(g: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        common, first, second = g.standard_normal((3, *size))
        weight = np.sqrt(abs(shared))
        own = np.sqrt(1 - abs(shared))
        return weight * common + own * first, ratio * (np.sign(shared) * weight * common + own * second) - gain

    return draw


def equal(sample: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Draw:
    """Return losses of two arms with the same distribution."""
    return lambda g, size: (sample(g, size), sample(g, size))


def lognormal(g: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.exp(g.standard_normal(size))


def skewed_candidate(g: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return a normal baseline and a log-normal candidate with the same mean and SD: few runs are much worse."""
    return g.standard_normal(size), (lognormal(g, size) - np.exp(0.5)) / np.sqrt(np.e * (np.e - 1))


NOISE: dict[str, Draw] = {
    "normal": normal(),
    "normal, correlation 0.5": normal(0.5),
    "normal, correlation 0.9": normal(0.9),
    "normal, correlation −0.3": normal(-0.3),
    "normal, candidate with 3 times the SD": normal(ratio=3.0),
    "normal, candidate with 1/3 of the SD": normal(ratio=1 / 3),
    "Student t, 3 degrees of freedom": equal(lambda g, size: g.standard_t(3, size)),
    "log-normal in both arms": equal(lognormal),
    "log-normal candidate, normal baseline, equal means": skewed_candidate,
}


@lru_cache(maxsize=1024)
def rule_of(level: float, paired: bool = False) -> Rule:
    return Rule(level, MOST, paired=paired)


def family(draw: Draw, seed: int) -> tuple[float, float, float, float]:
    """Return the share of sessions with a false keep, that at the first proposal, of the greedy rule, and pairs used.

    Each session has 100 useless proposals. From the first on, the correlation of the arms is measured as the referee
    does.
    """
    g = np.random.default_rng(seed)
    wrong, first, greedy, pairs = (np.zeros(SESSIONS) for _ in range(4))
    history: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(SESSIONS)]
    shared = np.zeros(SESSIONS, bool)
    for number in range(PROPOSALS):
        level = next_level("family", [False] * number)
        losses = draw(g, (SESSIONS, MOST))
        greedy += losses[1][:, 0] < losses[0][:, 0]
        for paired in (False, True):
            chosen = np.flatnonzero(shared == paired)
            if len(chosen):
                kept, stopped = run_series(rule_of(level, paired), losses[0][chosen], losses[1][chosen])
                wrong[chosen] += kept
                pairs[chosen] += stopped
                for i, n in zip(chosen, stopped, strict=True):
                    history[i].append((losses[0][i, :n], losses[1][i, :n]))
        if number == 0:
            first = wrong.copy()
        if number in (0, 1, 3, 9, 29):  # often enough: with more pairs the conclusion does not change
            shared = np.array([is_shared(pairs_) for pairs_ in history])
    return float((wrong > 0).mean()), float(first.mean()), float((greedy > 0).mean()), float(pairs.mean()) / PROPOSALS


def rate(draw: Draw, level: float, paired: bool, seed: int) -> tuple[float, float]:
    """Return the share of kept proposals and the mean number of pairs, over many single proposals."""
    kept, stopped = run_series(rule_of(level, paired), *draw(np.random.default_rng(seed), (SERIES, MOST)))
    return float(kept.mean()), float(stopped.mean())


def fixed_pairs(level: float, power: float, effect: float) -> int:
    """Return the pairs that a one-sided t-test on two samples needs for a level and power, without looks."""
    n = 2
    while nct.sf(stdtrit(2 * n - 2, 1 - level), 2 * n - 2, effect * np.sqrt(n / 2)) < power:
        n += 1
    return n


def discovery(useful: float, effect: float, seed: int) -> tuple[float, float, float]:
    """Return the false discovery rate under LORD++, kept changes per session, and the share of useful ones kept."""
    g = np.random.default_rng(seed)
    real = g.random((PROPOSALS, SESSIONS)) < useful
    kept = np.zeros((PROPOSALS, SESSIONS), bool)
    for number, helps in enumerate(real):
        levels = np.array([round_down(next_level("fdr", column)) for column in kept[:number].T.tolist()])
        baseline, candidate = normal()(g, (SESSIONS, MOST))
        candidate -= effect * helps[:, None]
        for level in np.unique(levels):
            chosen = levels == level
            kept[number, chosen] = run_series(rule_of(float(level)), baseline[chosen], candidate[chosen])[0]
    wrong = (kept & ~real).sum(0) / np.maximum(1, kept.sum(0))
    return float(wrong.mean()), float(kept.sum(0).mean()), (kept & real).sum() / max(1, real.sum())


def round_down(level: float) -> float:
    """Return a level rounded down to steps of 5 %, for which the nominal levels are computed only once."""
    return float(1.05 ** np.floor(np.log(level) / np.log(1.05)))


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|:--|" + "--:|" * (len(head) - 1), *(f"| {' | '.join(r)} |" for r in rows), ""]


def write_false_keeps() -> list[str]:
    rows = []
    for name, draw in NOISE.items():
        wrong, first, greedy, pairs = family(draw, seed=1)
        rows.append([name, percent(wrong), percent(first), percent(greedy), f"{pairs:.1f}"])
    bound = next_level("family", []) + (PROPOSALS - 1) * next_level("family", [False])
    return [
        "## False keeps of a family",
        "",
        f"{SESSIONS:,} sessions of {PROPOSALS} proposals whose true improvement is 0. The levels of the proposals add "
        f"up to {percent(bound)}, which bounds the probability of any false keep. Target: at most 6.5 % are seen for "
        "normal noise that the arms do not share. The greedy rule keeps a change if a single run of it is better than "
        "a single run of the baseline.",
        "",
        *table(["noise", "any false keep", "at the first proposal", "greedy rule", "pairs per proposal"], rows),
    ]


def write_levels() -> list[str]:
    rows = []
    for level in (0.05, 0.025, 0.0025, 0.025 / 99):
        for paired in (False, True):
            count = [rate(NOISE["normal"], level, paired, seed)[0] for seed in range(10, 15)]
            looks = [f"{nominal / level:.3f}" for nominal in rule_of(level, paired).nominal]
            test = "pairs" if paired else "two samples"
            rows.append([f"{level:.6f}", test, f"{np.mean(count) / level:.2f}", ", ".join(looks)])
    return [
        "## Nominal levels",
        "",
        f"The share of {5 * SERIES:,} useless proposals that is kept, relative to the level (target: at most 1, up to "
        "the error of the simulation), and the nominal level of each look relative to the level of the proposal.",
        "",
        *table(["level", "test", "kept / level", "nominal levels of the looks / level"], rows),
    ]


def write_power() -> list[str]:
    rows = []
    for level in (0.025, 0.0025, 0.025 / 99):
        for effect in (0.75, 1.0, 1.25, 1.5, 2.0):
            power, pairs = rate(normal(gain=effect), level, False, seed=4)
            fixed = fixed_pairs(level, power, effect)
            cells = [percent(power), f"{pairs:.1f}", str(fixed), percent(pairs / fixed, 0)]
            rows.append([f"{level:.6f}", f"{effect:g} SD", *cells])
    found = []
    for level in (0.05, 0.025, 0.0025, 0.025 / 99):
        for paired in (False, True):
            freedom = MOST - 1 if paired else 2 * (MOST - 1)
            smallest = rule_of(level, paired).detect(MOST, np.sqrt(2 / MOST), freedom)
            cells = [f"{smallest:.2f} SD", percent(rate(normal(gain=smallest), level, paired, seed=5)[0])]
            found.append([f"{level:.6f}", "pairs" if paired else "two samples", *cells])
    return [
        "## Power",
        "",
        "True improvements in standard deviations (SD) between seeds, with independent noise and at most "
        f"{MOST} seeds. Target: for 1 SD at the first proposal at least 80 % power, with at most 75 % of the runs of a "
        "fixed one-sided test with the same level and power.",
        "",
        *table(["level", "improvement", "power", "mean pairs", "pairs of a fixed test", "share of its runs"], rows),
        "The smallest improvement that an answer names, for a known SD, and the simulated power for it (target: 80 %):",
        "",
        *table(["level", "test", "smallest improvement", "power"], found),
    ]


def write_discoveries() -> list[str]:
    rows = []
    for useful, effect in ((0.0, 1.0), (0.05, 1.0), (0.05, 2.0), (0.2, 1.0), (0.2, 2.0), (0.5, 1.5)):
        rate_, kept, power = discovery(useful, effect, seed=6)
        cells = [percent(rate_), f"{kept:.2f}", percent(power, 0) if useful else "–"]
        rows.append([f"{percent(useful, 0)} improve by {effect:g} SD", *cells])
    return [
        "## False discovery rate",
        "",
        f"{SESSIONS:,} sessions of {PROPOSALS} proposals under `--control fdr`. Target: at most {percent(TOTAL, 0)} of "
        "the kept changes are useless, on average over the sessions (a session that keeps nothing counts as 0). "
        "Levels are rounded down to steps of 5 %.",
        "",
        *table(["proposals", "false discovery rate", "kept per session", "useful changes kept"], rows),
    ]


def main() -> None:
    """Run the simulations and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    lines = [
        "# How often the referee is wrong",
        "",
        "Written by `python benchmarks/gate.py`, which judges simulated losses with the rule and the error budget of "
        "`fallline gate` ([how to use it](how-to/gate.md)). A false keep is a change that is kept although its true "
        "improvement does not exceed the margin.",
        "",
    ]
    for part in (write_false_keeps, write_levels, write_power, write_discoveries):
        lines += part()
        print("\n".join(lines[-30:]), flush=True)
    out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
