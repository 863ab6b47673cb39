"""The probability that a search has missed an eigenvalue, against frequencies and Fisher's method."""

import math
from types import SimpleNamespace

import pytest
import torch

from fallline.landscape import Dense
from fallline.landscape.operators.base import Meter
from fallline.landscape.spectrum.lanczos import Lanczos
from fallline.landscape.spectrum.miss_probability import miss_probability


@pytest.mark.slow
@pytest.mark.parametrize(("n", "at"), [(50, 1.2), (500, 1.5), (3, 2.0)])
def test_the_probability_of_a_miss_is_one(n, at):
    """Of searches that showed nothing, those in which there was something: no more than the number that they gave."""
    values = torch.linspace(0, 1, n, dtype=torch.float64)
    values[-1] = at
    H = Dense(torch.diag(values))
    runs, steps = 2000, min(6, n - 1)
    generator = torch.Generator().manual_seed(0)
    given = []
    for _ in range(runs):
        basis = Lanczos(Meter(H, steps, steps, None), steps, generator)
        shown = False
        for _ in range(steps):
            basis.step()
            shown = shown or basis.ritz()[0].max().item() > (1 + at) / 2
        if not shown:
            given.append(miss_probability(basis, at))
    for level in (0.01, 0.05, 0.2, 0.5):
        allowed = level * runs
        assert sum(p <= level for p in given) <= allowed + 3 * math.sqrt(allowed)
    assert n == 3 or given


def test_chains_that_broke_down_combine_as_fisher_says():
    """Of the identity each product is a chain of its own, and says little; their product would say too much."""
    stats = pytest.importorskip("scipy.stats")
    d, at = 100, 30.0
    chains = {"size": 2, "breaks": [True, True], "betas": [1.0, 2.0], "T": torch.zeros(2, 2)}
    basis = SimpleNamespace(**chains, dimension=d, eps=1e-16, noise=1e-16, scale=1.0)
    # A product from a vector of its own bounds the component of any vector along the missed one by 1/√(1 + (at/β)²); of
    # a random vector in d dimensions, √(d − 1) times it is Student's t of d − 1 degrees of freedom, near 0.
    alone = [
        2 / math.sqrt(1 + (at / beta) ** 2) * stats.t.pdf(0, dim - 1) * math.sqrt(dim - 1)
        for beta, dim in ((1.0, d), (2.0, d - 1))
    ]
    assert all(0.1 < p < 1 for p in alone)
    assert miss_probability(basis, at) == pytest.approx(stats.combine_pvalues(alone).pvalue, rel=1e-12)


def test_in_float32_a_search_proves_no_more_than_its_rounding():
    values = torch.cat([torch.linspace(0, 1, 99), torch.tensor([3.0])])
    for dtype, least, most in ((torch.float32, 1e-6, 1e-4), (torch.float64, 1e-15, 1e-12)):
        basis = Lanczos(Meter(Dense(torch.diag(values.to(dtype))), 40, 40, None), 40, torch.Generator().manual_seed(0))
        for _ in range(40):
            basis.step()
        assert least < miss_probability(basis, 9.0) < most
