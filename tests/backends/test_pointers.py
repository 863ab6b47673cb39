"""Moved memory is noticed, by PyTorch's C function and without it."""

import pytest
import torch

from fallline.backends.fused import pointers as addresses
from fallline.backends.fused.pointers import Addresses


@pytest.mark.parametrize("compiled", [True, False])
def test_one_moved_tensor_among_many_is_noticed(compiled, monkeypatch):
    if compiled:
        assert addresses._data_ptr_function() is not None, "this PyTorch has no such function: steps are slower"
    else:
        monkeypatch.setattr(addresses, "_data_ptr_function", lambda: None)
    tensors = [torch.nn.Parameter(torch.zeros(3)) for _ in range(50)]
    where = Addresses(tensors)
    assert where.hold(tensors)
    tensors[31].data = torch.ones(3)
    assert not where.hold(tensors)
    assert Addresses(tensors).hold(tensors)
    assert Addresses(tensors).values.tolist() == [t.data_ptr() for t in tensors]
