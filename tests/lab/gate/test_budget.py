"""The levels of the proposals of a session never add up to more than the error budget."""

import pytest

from fallline.errors import ArgumentError, GateError
from fallline.lab.gate.budget import count_left, next_level


def test_the_levels_of_a_family_add_up_to_5_percent():
    levels = [next_level("family", [i % 7 == 0 for i in range(n)]) for n in range(100)]
    assert levels[0] == 0.025
    assert set(levels[1:]) == {0.025 / 99}
    assert sum(levels) == pytest.approx(0.05, rel=1e-12)


def test_proposal_101_of_a_family_is_refused():
    assert count_left("family", 100) == 0
    with pytest.raises(GateError, match=r"has judged 100 proposals and spent its error budget of 0\.05"):
        next_level("family", [False] * 100)


def lord(kept):
    """LORD++ as in equation (11) of Ramdas et al. 2017, with sums over a long horizon in place of zeta."""
    weights = [j**-1.6 for j in range(1, 200_000)]
    total = sum(weights) + 199_999.5**-0.6 / 0.6  # the tail of the sum, as an integral
    gamma = [0.0, *(w / total for w in weights[:200])]
    t, times = len(kept) + 1, [i + 1 for i, k in enumerate(kept) if k]
    level = gamma[t] * 0.025
    if times:
        level += (0.05 - 0.025) * gamma[t - times[0]] + 0.05 * sum(gamma[t - s] for s in times[1:])
    return level


@pytest.mark.parametrize("kept", [[], [False] * 5, [True], [False, True, False, False, True, False]])
def test_the_levels_of_fdr_are_those_of_lord(kept):
    assert next_level("fdr", kept) == pytest.approx(lord(kept), rel=1e-5)


def test_without_a_kept_change_fdr_never_spends_more_than_its_wealth():
    assert sum(next_level("fdr", [False] * n) for n in range(1000)) < 0.025
    assert next_level("fdr", [False] * 1000) > 0
    assert next_level("fdr", [True, True]) > next_level("fdr", [True, False]) > next_level("fdr", [False, False])


def test_an_unknown_control_is_refused():
    with pytest.raises(ArgumentError, match="control: must be one of family, fdr, got 'bonferroni'"):
        next_level("bonferroni", [])
