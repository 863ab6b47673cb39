"""Which parameters an optimizer takes; the others are refused at construction."""

import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError
from support.messages import check_message
from support.variants import EVERY_CLASS, parameter


@EVERY_CLASS
def test_params_that_are_no_ordered_leaves_are_refused(cls):
    leaf = parameter(2)
    for params, kind, limit, value, remedy in (
        ([], ArgumentError, "at least one parameter", "an empty list", "used up"),
        ((p for p in ()), ArgumentError, "at least one parameter", "an empty generator", "used up"),
        (leaf, ArgumentTypeError, "iterable", "Parameter", r"model\.parameters"),
        (None, ArgumentTypeError, "iterable", "NoneType", r"model\.parameters"),
        ([leaf * 2], ArgumentError, "leaves", "MulBackward0 of shape (2,)", "detach"),
        ([("weight", leaf * 2)], ArgumentError, "leaves", "MulBackward0", "detach"),
        ([leaf, 3], ArgumentTypeError, "tensors", "int", r"model\.parameters"),
        ([{"params": {leaf}}], ArgumentTypeError, "a fixed order", "a set", "list"),
        ({leaf}, ArgumentTypeError, "a fixed order", "a set", "list"),
    ):
        with pytest.raises(kind) as error:
            cls(params)
        check_message(error, cls.__name__, limit, value, remedy)
    with pytest.raises(ValueError, match="more than one"):  # PyTorch's own words
        cls([{"params": [leaf]}, {"params": [leaf]}])


@EVERY_CLASS
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex32], ids=str
)
def test_a_parameter_of_a_dtype_that_is_not_served_is_refused_at_construction(cls, dtype):
    opt = cls([parameter(2)])
    for make in (lambda p: cls([p]), lambda p: cls([("a", p)]), lambda p: opt.add_param_group({"params": p})):
        with pytest.raises(ArgumentError) as error:
            make(torch.empty(3, dtype=dtype))
        check_message(error, cls.__name__, "params must be float32, float64", str(dtype), "convert")
    assert len(opt.param_groups) == 1


@EVERY_CLASS
def test_a_group_may_be_empty(cls):
    opt = cls([{"params": []}, {"params": (p for p in ())}, {"params": [parameter(2)]}])
    assert [len(group["params"]) for group in opt.param_groups] == [0, 0, 1]
