"""The error budget of a session: the significance level of every proposal."""

import math
from collections.abc import Sequence

from scipy.special import zeta

from fallline.errors import ArgumentError, GateError

CONTROLS = ("family", "fdr")
TOTAL = 0.05
FIRST = 0.025  # level of the first proposal of a family, and first wealth of LORD++
MOST = 100  # proposals of a family
_DECAY = 1.6  # of the weights j^−1.6 (Ramdas et al. 2018), which favour early proposals


def check_control(control: str) -> None:
    """Check the name of a kind of error control.

    Raises:
        ArgumentError: it is unknown.
    """
    if control not in CONTROLS:
        raise ArgumentError(
            f"control: must be one of {', '.join(CONTROLS)}, got {control!r}; family limits the probability that any "
            "useless change is kept, fdr the share of useless changes among those kept"
        )


def next_level(control: str, kept: Sequence[bool]) -> float:
    """Return the level of the proposal that follows the earlier ones.

    In a family the first proposal has the level 0.025, and the next 99 share 0.025. Under `fdr` the levels are those
    of LORD++ (Ramdas et al. 2017, arXiv:1710.00499, section 3), which controls the false discovery rate at 0.05 for
    independent tests: every kept change pays for later proposals.

    Args:
        control: "family" or "fdr".
        kept: whether each earlier proposal was kept.

    Raises:
        GateError: the family has no level left.

    Example:
        >>> next_level("family", []), round(next_level("family", [True]), 6)
        (0.025, 0.000253)
        >>> round(next_level("fdr", []), 4), round(next_level("fdr", [False]), 4), round(next_level("fdr", [True]), 4)
        (0.0109, 0.0036, 0.0145)
    """
    check_control(control)
    if control == "fdr":
        return _lord(kept)
    if len(kept) >= MOST:
        raise GateError(
            f"This session has judged {MOST} proposals and spent its error budget of {TOTAL:g}. Start a new session: "
            "pass another --session and use a test set that no session has used; --control fdr there has no such limit"
        )
    return FIRST if not kept else (TOTAL - FIRST) / (MOST - 1)


def _lord(kept: Sequence[bool]) -> float:
    number = len(kept) + 1
    times = [i for i, found in enumerate(kept, 1) if found]
    level = FIRST * _weight(number)
    for order, time in enumerate(times):
        level += (TOTAL - FIRST if order == 0 else TOTAL) * _weight(number - time)
    return level


def _weight(j: int) -> float:
    return float(j**-_DECAY / zeta(_DECAY))


def count_left(control: str, number: int) -> float:
    """Return how many proposals may follow the proposal `number`; infinity if there is no limit."""
    return math.inf if control == "fdr" else MOST - number
