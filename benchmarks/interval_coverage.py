"""Simulate how often the 95 % intervals of the lab cover the true difference, and write docs/coverage.md.

    python benchmarks/interval_coverage.py            # 5 minutes on one core

A source of 100,000 examples with heavy tails represents the population. The two arms are linear models trained with SGD
at different learning rates and weight decays, so their true difference is not zero. It is known, because the mean
squared error over the whole source is a quadratic form of the weights. Studies are drawn from the source as the lab
draws them and evaluated by the code of the lab. Two equal arms would not be a test: they have no effect of the pool.
"""

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm

from fallline.lab.analysis.statistics import compare
from fallline.lab.analysis.variance import Design, FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly

STUDIES, SOURCE, FEATURES = 1000, 100_000, 12
STEPS, BATCH = 60, 16
SHARED = "s²/n + c/N (used by the lab)"
CROSSED = "crossed, seeds × examples (used by the lab)"
PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"


@dataclass(frozen=True)
class Arm:
    """A linear model under SGD: learning rate, weight decay, and the spread of its initial weights."""

    lr: float
    decay: float
    init: float = 0.3


ARMS = (Arm(0.02, 0.0), Arm(0.05, 0.05))


@functools.cache
def source() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (100000, 12) and targets (100000,): no line fits them, and their noise has heavy tails."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((SOURCE, FEATURES))
    x[:, -1] = 1.0
    signal = x @ draw.standard_normal(FEATURES) / 2 + 0.5 * np.sin(2 * x[:, 0]) * x[:, 1]
    noise = draw.standard_t(5, SOURCE) * np.exp(0.4 * x[:, 2])  # some examples are much harder than others
    return torch.tensor(x, dtype=torch.float32), torch.tensor(signal + noise, dtype=torch.float32)


@functools.cache
def moments() -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return E[x xᵀ], E[x y] and E[y²] over the source."""
    x, y = (part.double() for part in source())
    return x.T @ x / SOURCE, x.T @ y / SOURCE, float((y * y).mean())


def true_loss(weights: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the whole source of weights (runs, 12)."""
    xx, xy, yy = moments()
    w = weights.double()
    return (w @ xx * w).sum(1) - 2 * w @ xy + yy


def train(arm: Arm, rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the weights (runs, 12) of runs on their training sets.

    Args:
        arm: what is trained.
        rows: (runs, n) indices into the source.
        seed: of initialisation and order, which are the same for every arm.
    """
    x, y = source()
    draw = torch.Generator().manual_seed(seed)
    weights = arm.init * torch.randn(len(rows), FEATURES, generator=draw)
    for _ in range(STEPS):
        picked = rows.gather(1, torch.randint(rows.shape[1], (len(rows), BATCH), generator=draw))
        inputs, targets = x[picked], y[picked]
        errors = torch.einsum("rbf,rf->rb", inputs, weights) - targets
        gradient = 2 * torch.einsum("rbf,rb->rf", inputs, errors) / BATCH
        weights = weights - arm.lr * (gradient + arm.decay * weights)
    return weights


def item_losses(weights: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """Return the squared errors (runs, n) of weights (runs, 12) on examples (runs, n) of the source."""
    x, y = source()
    return np.asarray((torch.einsum("rnf,rf->rn", x[rows], weights) - y[rows]).square().double())


@dataclass(frozen=True)
class Splits:
    """Fresh splits of each study's pool, one per seed: rows of the source, and where in the pool the test ones are."""

    training: torch.Tensor  # (studies · seeds, ·)
    test: torch.Tensor
    places: np.ndarray  # as `test`, within the pool


def split(pools: torch.Tensor, seeds: int, seed: int, test: float = 0.2) -> Splits:
    """Return a split of each study's pool (studies, size) for every seed; as much again as for testing is not used."""
    draw = torch.Generator().manual_seed(seed)
    size = pools.shape[1]
    order = torch.rand(len(pools) * seeds, size, generator=draw).argsort(1)
    shuffled = pools.repeat_interleave(seeds, 0).gather(1, order)
    held_out = round(test * size)
    places = np.asarray(order[:, :held_out]).astype(np.uint64)
    return Splits(shuffled[:, 2 * held_out :], shuffled[:, :held_out], places)


def sample(studies: int, size: int, seed: int) -> torch.Tensor:
    """Return (studies, size) indices into the source."""
    return torch.randint(SOURCE, (studies, size), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Tally:
    """The results of a rule over many studies.

    Attributes:
        covered: share of the studies whose interval contains the true difference.
        width: mean half-width.
        needed: half-width that covers 95 %: 1.96 standard deviations of the error.
    """

    covered: float
    width: float
    needed: float


def tally(
    items: Sequence[np.ndarray],
    truths: Sequence[float],
    seeds: int,
    design: Callable[..., Design],
    places: np.ndarray | None = None,
) -> Tally:
    """Evaluate studies with the code of the lab.

    Args:
        items: for each of the two arms, losses (studies, seeds, n).
        truths: the true log ratio of each study.
        seeds: how many are used.
        design: makes the design from the two arms' losses of a study, and from `places` of it if given.
        places: which example each loss is of, (studies, seeds, n).
    """
    hits, widths, errors = [], [], []
    for number, truth in enumerate(truths):
        own = [list(part[number, :seeds]) for part in (items[1], items[0])]
        more = [] if places is None else [list(places[number, :seeds])]
        values = [[float(row.mean()) for row in part] for part in own]
        c = compare(*values, log_ratio=True, design=design(*own, *more))
        hits.append(c.low <= truth <= c.high)
        widths.append((c.high - c.low) / 2)
        errors.append(c.difference - truth)
    return Tally(float(np.mean(hits)), float(np.mean(widths)), float(norm.ppf(0.975) * np.std(errors)))


def ridge(penalty: float, rows: torch.Tensor) -> torch.Tensor:
    """Return the weights (runs, 12) of ridge regressions: nothing but the data varies."""
    x, y = source()
    found = []
    for part in rows.split(2000):
        inputs, targets = x[part].double(), y[part].double().unsqueeze(2)
        square = inputs.mT @ inputs + penalty * rows.shape[1] * torch.eye(FEATURES, dtype=torch.float64)
        found.append(torch.linalg.solve(square, inputs.mT @ targets)[..., 0])
    return torch.cat(found).float()


def sgd_pair(rows: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return the weights of both arms under SGD."""
    return [train(arm, rows, seed) for arm in ARMS]


def ridge_pair(rows: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return the weights of two ridge regressions."""
    return [ridge(penalty, rows) for penalty in (0.0, 2.0)]


Pair = Callable[[torch.Tensor, int], list[torch.Tensor]]


def log_ratio_of_new_runs(pair: Pair, size: int, runs: int = 40_000) -> float:
    """Return the true mean log ratio of the two arms over training sets of a size and over seeds."""
    first, second = map(true_loss, pair(sample(runs, size, seed=99), 98))
    return float((second / first).log().mean())


def random_splits(pool: float) -> Callable[..., Design]:
    """Return what makes the design of a study that splits a pool, with or without knowing which example is which."""

    def design(arm: list[np.ndarray], baseline: list[np.ndarray], places: Sequence[np.ndarray] = ()) -> Design:
        return RandomSplits(arm, baseline, list(places), pool)

    return design


def seeds_alone(arm: list[np.ndarray], baseline: list[np.ndarray]) -> Design:
    """Return the design in which seeds alone vary."""
    return SeedsOnly()


def splits_table(pair: Pair, sizes: Sequence[int], most: int = 16) -> list[str]:
    """Return the rows of the studies that split their pool themselves."""
    lines = []
    for size in sizes:
        pools = sample(STUDIES, size, seed=size)
        drawn = split(pools, most, seed=size + 1)
        shape = (STUDIES, most, drawn.test.shape[1])
        items = [item_losses(w, drawn.test).reshape(shape) for w in pair(drawn.training, size + 2)]
        truth = [log_ratio_of_new_runs(pair, drawn.training.shape[1])] * STUDIES
        # The former protocol: one split of the pool, on which every seed is trained and tested.
        once = split(pools, 1, seed=size + 3)
        training, test = (part.repeat_interleave(most, 0) for part in (once.training, once.test))
        fixed = [item_losses(w, test).reshape(shape) for w in pair(training, size + 2)]
        ratio = drawn.test.shape[1] / drawn.training.shape[1]
        for seeds in (4, 8, 16):
            case = f"pool of {size:,}, {seeds} seeds"
            lines += [
                _row(case, SHARED, tally(items, truth, seeds, random_splits(size), drawn.places.reshape(shape))),
                _row(case, "s²/n + s_e²/N", tally(items, truth, seeds, random_splits(size))),
                _row(case, "s² (1/n + n_test/n_train)", tally(items, truth, seeds, _nadeau_bengio(ratio))),
                _row(
                    case, "seeds alone, one split (used by earlier versions)", tally(fixed, truth, seeds, seeds_alone)
                ),
            ]
    return lines


def _nadeau_bengio(ratio: float) -> Callable[..., Design]:
    return lambda arm, baseline: RandomSplitMeans(ratio)


def fixed_table(extra: int = 400) -> list[str]:
    """Return the rows of the studies with a fixed training and test set; `extra` further seeds give the truth."""
    lines, most = [], 16
    training = sample(STUDIES, 1000, seed=5)
    weights = [train(arm, training.repeat_interleave(most, 0), seed=6) for arm in ARMS]
    truth = np.zeros(STUDIES)
    for part in range(extra // 50):
        first, second = (true_loss(train(arm, training.repeat_interleave(50, 0), seed=100 + part)) for arm in ARMS)
        truth += np.asarray((second / first).log().reshape(STUDIES, 50).mean(1)) * 50 / extra
    for size in (360, 2000):
        test = sample(STUDIES, size, seed=size).repeat_interleave(most, 0)
        items = [item_losses(w, test).reshape(STUDIES, most, size) for w in weights]
        for seeds in (8, 16):
            case = f"test set of {size:,}, {seeds} seeds"
            lines += [
                _row(case, CROSSED, tally(items, truth.tolist(), seeds, FixedTestSet)),
                _row(case, "seeds alone (used by earlier versions)", tally(items, truth.tolist(), seeds, seeds_alone)),
            ]
    return lines


def _row(case: str, rule: str, found: Tally) -> str:
    """Return a line of a table; a false difference is an interval around which the truth is not."""
    return (
        f"| {case} | {rule} | {100 * found.covered:.1f} % | {100 * (1 - found.covered):.1f} % | {found.width:.4f} | "
        f"{found.needed:.4f} |"
    )


def real_table(most: int = 16, bank: int = 2000) -> list[str]:
    """Return the rows of real data: how often a study's interval holds the mean over all splits of the pool."""
    from sklearn.datasets import load_breast_cancer, load_digits

    lines = []
    for name, data in (("digits", load_digits()), ("breast cancer", load_breast_cancer())):
        x = torch.tensor((data.data - data.data.mean(0)) / (data.data.std(0) + 1e-6), dtype=torch.float32)
        y = torch.tensor(data.target)
        pool = torch.arange(len(y))[None]
        drawn = split(pool, bank, seed=1)
        items = [_softmax_losses(x, y, drawn.training, drawn.test, lr) for lr in (0.02, 0.1)]
        truth = [float(np.log(items[1].mean(1) / items[0].mean(1)).mean())] * STUDIES
        draw = np.random.default_rng(2)
        chosen = np.stack([draw.choice(bank, most, replace=False) for _ in range(STUDIES)])
        studies, places = [part[chosen] for part in items], drawn.places[chosen]
        for seeds in (8, 16):
            case, size = f"{name}, {seeds} seeds", len(y)
            lines += [
                _row(case, SHARED, tally(studies, truth, seeds, random_splits(size), places)),
                _row(case, "s²/n + s_e²/N", tally(studies, truth, seeds, random_splits(size))),
                _row(case, "s²/n", tally(studies, truth, seeds, seeds_alone)),
            ]
    return lines


def _softmax_losses(
    x: torch.Tensor, y: torch.Tensor, training: torch.Tensor, test: torch.Tensor, lr: float
) -> np.ndarray:
    """Return the cross-entropies (runs, n) on their test sets of softmax regressions under SGD, 100 steps of 32."""
    draw = torch.Generator().manual_seed(3)
    classes = int(y.max()) + 1
    weights = 0.1 * torch.randn(len(training), x.shape[1], classes, generator=draw)
    for _ in range(100):
        picked = training.gather(1, torch.randint(training.shape[1], (len(training), 32), generator=draw))
        error = torch.softmax(x[picked] @ weights, 2) - torch.nn.functional.one_hot(y[picked], classes)
        weights = weights - lr * (x[picked].transpose(1, 2) @ error) / 32
    losses = []
    for part, rows in zip(weights.split(100), test.split(100), strict=True):
        logits = (x[rows] @ part).flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits, y[rows].flatten(), reduction="none").view(rows.shape))
    return np.asarray(torch.cat(losses).double())


def tuning_bias(size: int = 600, seeds: int = 8) -> str:
    """Return the shift of the difference on later splits of a pool if one split was used for tuning, in SD of a pair.

    Every study tunes learning rate and weight decay of two kinds of arms on the validation part of one split; the same
    settings are then confirmed on splits of that pool, and on splits of another pool from the same source.
    """
    pools, others = sample(STUDIES, size, seed=31), sample(STUDIES, size, seed=32)
    kinds = [[Arm(lr, decay) for lr in (0.01, 0.02, 0.04, 0.06)] for decay in (0.0, 0.1)]
    tuned = split(pools, 1, seed=33)  # its test part serves as validation
    chosen = []
    for arms in kinds:
        scores = np.stack([item_losses(train(arm, tuned.training, seed=34), tuned.test).mean(1) for arm in arms])
        chosen.append(scores.argmin(0))
    differences = []
    for pool in (pools, others):
        drawn = split(pool, seeds, seed=35)
        means = []
        for arms, best in zip(kinds, chosen, strict=True):
            every = np.stack(
                [
                    item_losses(train(arm, drawn.training, seed=36), drawn.test).mean(1).reshape(STUDIES, seeds)
                    for arm in arms
                ]
            )
            means.append(every[best, np.arange(STUDIES)])
        differences.append(np.log(means[1] / means[0]))
    spread = float(np.sqrt(differences[1].var(1, ddof=1).mean()))
    gap = differences[0].mean(1) - differences[1].mean(1)
    shift, error = float(gap.mean()) / spread, float(gap.std() / math.sqrt(STUDIES)) / spread
    return (
        f"Tuning on one split of a pool of {size} shifts the mean difference on later splits of the same pool by "
        f"{shift:+.3f} ± {error:.3f} (standard error) standard deviations of a pair of runs, compared with splits of a "
        "pool that was not used for tuning."
    )


def main() -> None:
    """Run the simulations and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    head = ["| studies | rule | covered | false differences | half-width | needed |", "|:--|:--|--:|--:|--:|--:|"]
    lines = [
        "# Coverage of the intervals",
        "",
        f"Written by `python benchmarks/interval_coverage.py`: {STUDIES:,} simulated studies per row, of two "
        "different arms whose true difference is known. *Covered* is the share of studies whose 95 % interval "
        "contains the true difference (target: at least 93 %). *False differences* is the share of studies "
        "whose interval does not contain it; for two arms without a difference, such a study would report one "
        "(target: at most 6 %). *Half-width* is that of the interval, in log ratios. *Needed* is the half-width "
        "that would be sufficient: 1.96 standard deviations of the error of the estimate.",
        "",
        "In the formulas, s² is the variance of the differences over n seeds, and N is the size of the pool from "
        "which the splits are drawn. s_e² is the variance of the differences of single examples within a test set. "
        "c is the covariance of an example's differences in the test sets of different seeds, that is, the part "
        "that is the same in every run. Most of s_e² differs from run to run, so a formula with s_e² makes the "
        "interval too wide.",
        "",
        "## The lab draws the splits",
        "",
        "Each study draws a pool from a source of 100,000 examples. Each seed has its own split of the pool, with "
        "a fifth of it for testing. The true difference is the mean over new training sets of the same size from "
        "the source, tested on the whole source.",
        "",
        *head,
        *splits_table(sgd_pair, (600, 1800)),
        "",
        "The same for two ridge regressions, for which the data are the only source of chance:",
        "",
        *head,
        *splits_table(ridge_pair, (600,)),
        "",
        "## Fixed training and test sets",
        "",
        "Each study draws 1,000 training examples and a test set from the same source. Its true difference is the "
        "mean over seeds on its training set, tested on the whole source.",
        "",
        *head,
        *fixed_table(),
        "",
        "## Real data",
        "",
        "The arms are softmax regressions trained with SGD at two learning rates. The true difference is the mean "
        "over 2,000 splits of all the data. It holds for this pool only, so the term c/N or s_e²/N is not needed "
        "here and makes the intervals too wide.",
        "",
        *head,
        *real_table(),
        "",
        "## Tuning on a split of the same pool",
        "",
        tuning_bias(),
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
