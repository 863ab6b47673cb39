"""The conversions between float32 and the two halves are PyTorch's, bit for bit."""

import numpy as np
import pytest
import torch
from numba import njit

from fallline.backends.fused.formats import load_bfloat16, load_float16, store_bfloat16, store_float16

HALVES = np.arange(65536, dtype=np.uint16)


@njit
def _load(halves, bfloat, half):
    for i in range(len(halves)):
        bfloat[i] = load_bfloat16(halves[i])
        half[i] = load_float16(halves[i])


@njit
def _store(values, bfloat, half):
    for i in range(len(values)):
        bfloat[i] = store_bfloat16(values[i])
        half[i] = store_float16(values[i])


def load(halves):
    """Return the float32 of each half, by dtype."""
    out = np.empty((2, len(halves)), dtype=np.float32)
    _load(halves, out[0], out[1])
    return {torch.bfloat16: out[0], torch.float16: out[1]}


def store(values):
    """Return the half of each float32 as bits, by dtype."""
    out = np.empty((2, len(values)), dtype=np.uint16)
    _store(values, out[0], out[1])
    return {torch.bfloat16: out[0], torch.float16: out[1]}


def torchs_load(halves, dtype):
    return torch.from_numpy(halves.view(np.int16)).view(dtype).float().numpy()


def torchs_store(values, dtype):
    return torch.from_numpy(values).to(dtype).view(torch.int16).numpy().view(np.uint16)


def check_same_halves(ours, theirs, values):
    """NaN need only stay NaN; all else must agree to the bit."""
    nan = np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])


DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@DTYPES
def test_every_half_loads_as_in_torch(dtype):
    ours, theirs = load(HALVES)[dtype], torchs_load(HALVES, dtype)
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(ours[~nan].view(np.uint32), theirs[~nan].view(np.uint32))  # -0.0 is not 0.0


@DTYPES
def test_every_half_survives_the_round_trip(dtype):
    values = load(HALVES)[dtype]
    back = store(values)[dtype]
    check_same_halves(back, HALVES, values)
    np.testing.assert_array_equal(np.isnan(load(back)[dtype]), np.isnan(values))


@DTYPES
def test_random_float32_bits_store_as_in_torch(dtype):
    values = np.random.default_rng(0).integers(0, 2**32, 1 << 21, dtype=np.uint32).view(np.float32)
    ours = store(values)[dtype]
    check_same_halves(ours, torchs_store(values, dtype), values)
    np.testing.assert_array_equal(np.isnan(load(ours)[dtype]), np.isnan(values))


@DTYPES
def test_ties_and_their_neighbours_store_as_in_torch(dtype):
    """Halfway between every two adjacent halves, and one float32 to either side; the subnormal ones too."""
    values = torchs_load(HALVES, dtype)
    finite = np.isfinite(values[:-1]) & np.isfinite(values[1:]) & (np.signbit(values[:-1]) == np.signbit(values[1:]))
    low, high = (side[finite].astype(np.float64) for side in (values[:-1], values[1:]))
    ties = ((low + high) / 2).astype(np.float32)
    for near in (ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))):
        check_same_halves(store(near)[dtype], torchs_store(near, dtype), near)


@DTYPES
def test_the_edges_store_as_in_torch(dtype):
    tiny = np.arange(1, 4096, dtype=np.uint32).view(np.float32)  # float32 subnormals
    edges = np.array([0.0, np.inf, 65503.9, 65504, 65519.99, 65520, 65536, 3.3895314e38, 3.4e38, 3.4028235e38, 6e-8])
    for values in (tiny, -tiny, edges.astype(np.float32), -edges.astype(np.float32)):
        check_same_halves(store(values)[dtype], torchs_store(values, dtype), values)
