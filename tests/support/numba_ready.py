"""Compile nothing of ours: what Numba imports at its first compilation takes a second."""

from numba import njit

njit("int64(int64)")(lambda x: x)
