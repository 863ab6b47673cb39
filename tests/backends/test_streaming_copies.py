"""Copies that are written past the cache: every byte, and no other; and parameters that are put back by them."""

import numpy as np
import pytest
import torch
from numba import njit

import fallline
from fallline.backends.fused import bucket as fused
from fallline.backends.fused.intrinsics import copy_past_cache


@njit
def copy(target, source, size):
    copy_past_cache(target, source, size)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 95, 1000])
def test_every_byte_is_copied_and_no_other(size):
    rng = np.random.default_rng(size)
    for offset in range(33):
        source = rng.integers(0, 256, size + 40, dtype=np.uint8)
        target = rng.integers(0, 256, size + 80, dtype=np.uint8)
        expected = target.copy()
        expected[offset : offset + size] = source[3 : 3 + size]
        copy(target.ctypes.data + offset, source.ctypes.data + 3, size)
        assert (target == expected).all()


@pytest.fixture
def always_large(monkeypatch):
    monkeypatch.setattr(fused, "PARALLEL", 0)
    monkeypatch.setattr(fused, "CHUNK", 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sam_puts_large_parameters_back(dtype, always_large):
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(3, 7), (1,), (41,)]]
    for param in params:
        param.grad = torch.ones_like(param)
    before = [param.detach().clone() for param in params]
    opt = fallline.SAM(fallline.SGD(params, lr=0.1, backend="fused"), rho=0.5)
    opt.first_step()
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    versions = [param._version for param in params]
    opt._restore()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    assert all(p._version > version for p, version in zip(params, versions, strict=True))


def test_parameters_that_moved_between_the_phases_are_put_back_where_they_are(always_large):
    moved, turned = (torch.nn.Parameter(torch.arange(12.0).reshape(3, 4)) for _ in range(2))
    before = moved.detach().clone()
    for param in (moved, turned):
        param.grad = torch.ones_like(param)
    opt = fallline.SAM(fallline.SGD([moved, turned], lr=0.1, backend="fused"), rho=0.5)
    opt.first_step()
    left = moved.data
    moved.data = moved.data.clone()
    turned.data = turned.data.t().contiguous().t()
    kept = left.clone()
    opt._restore()
    assert torch.equal(moved, before) and torch.equal(turned, before)
    assert torch.equal(left, kept)
