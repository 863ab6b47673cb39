"""The probability that a search from random vectors has missed an eigenvalue."""

import math

from fallline.landscape.spectrum.lanczos import Lanczos

_TINY = 1e-60


def miss_probability(basis: Lanczos, at: float) -> float:
    """Return the probability that this search has missed an eigenvalue at or beyond `at`, if there is one.

    The vectors v_l of a Lanczos chain from a random v_0 have the components p_l(at)·(u·v_0) along an eigenvector u,
    where the projection defines the polynomials p_l. The squares of these components sum to at most 1, so that
    |u·v_0| <= 1/sqrt(Σ p_l(at)²). For a random direction in d dimensions, the probability of this is at most
    2·Γ(d/2)/(√π·Γ((d−1)/2)) times the bound. Beyond all Ritz values the p_l grow, so that `at` is the worst case. After
    a breakdown, the next chain starts at a new random vector, and the probabilities of the chains are combined by
    Fisher's method for independent ones.

    A search that ends when this probability is small is wrong with at most this probability, for any spectrum.

    Args:
        basis: from a random start, never compressed, and without a Ritz value beyond `at`.
        at: a number outside the range of the Ritz values.
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
    """Return the probability from the products `first` to `last`, which form a chain from one random vector."""
    least = max(basis.eps * basis.scale, _TINY)
    before, now, beta, total = 0.0, 1.0, 0.0, 1.0
    for j in range(first, last + 1):
        after = max(basis.betas[j], least)
        before, now = now, ((at - basis.T[j, j].item()) * now - beta * before) / after
        total, beta = total + now * now, after
        if total > 1e200:
            break
    component = max(1 / math.sqrt(total), 4 * basis.noise * math.sqrt(basis.size))  # rounding adds any component
    d = basis.dimension - first
    if d <= 2:
        return 2 / math.pi * math.asin(min(1.0, component)) if d == 2 else float(component >= 1)
    return min(1.0, 2 * component * math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi))
