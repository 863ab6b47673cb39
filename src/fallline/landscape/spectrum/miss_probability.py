"""How probable it is that a search from random vectors has passed over an eigenvalue."""

import math

from fallline.landscape.spectrum.lanczos import Lanczos

_TINY = 1e-60


def miss_probability(basis: Lanczos, at: float) -> float:
    """Return how probable it is that there is an eigenvalue at or beyond `at` and this search has not shown it.

    The vectors v_l of a chain of products, from a v_0 that was drawn at random, have the components p_l(at)·(u·v_0)
    along an eigenvector u, with polynomials p_l that the projection defines. Their squares sum to 1 at most, so that
    |u·v_0| <= 1/sqrt(Σ p_l(at)²), which in d dimensions is so of few random directions: of at most
    2·Γ(d/2)/(√π·Γ((d−1)/2)) times that number. Beyond all Ritz values the p_l grow, so that `at` is the worst case.
    Where a chain broke down, the next began at a random vector of its own, and the probabilities combine as independent
    ones do (Fisher).

    A search that ends when this is small ends wrongly only in that part of its draws, however large the spectrum.

    Args:
        basis: from a random start, never compressed, and with no Ritz value beyond `at`.
        at: a number outside of the Ritz values.
    """
    found, first = [], 0
    for last in range(basis.size):
        if basis.breaks[last] or last == basis.size - 1:
            found.append(_chain(basis, first, last, at))
            first = last + 1
    logs = -sum(math.log(max(p, 1e-300)) for p in found)
    terms = [1.0]
    for i in range(1, len(found)):
        terms.append(terms[-1] * logs / i)
    return min(1.0, math.exp(-logs) * math.fsum(terms))


def _chain(basis: Lanczos, first: int, last: int, at: float) -> float:
    """Return the probability by the products `first` to `last`, a chain from one random vector."""
    least = max(basis.eps * basis.scale, _TINY)
    before, now, beta, total = 0.0, 1.0, 0.0, 1.0
    for j in range(first, last + 1):
        after = max(basis.betas[j], least)
        before, now = now, ((at - basis.T[j, j].item()) * now - beta * before) / after
        total, beta = total + now * now, after
        if total > 1e200:
            break
    component = max(1 / math.sqrt(total), 4 * basis.eps * math.sqrt(basis.size))  # rounding adds some of everything
    d = basis.dimension - first
    if d <= 2:
        return 2 / math.pi * math.asin(min(1.0, component)) if d == 2 else float(component >= 1)
    return min(1.0, 2 * component * math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi))
