"""A hyperparameter may be any type that behaves as a number or as a pair of numbers; text is neither."""

from collections.abc import MutableSequence
from types import MappingProxyType

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.rules.ranges import NON_NEGATIVE
from support.messages import check_message
from support.variants import EVERY_BACKEND, distance, params_of, same_bits, state_of, through_a_file, train


class ListConfig(MutableSequence):
    """Behaves as OmegaConf's class of this name: a sequence that is neither a list nor a tuple."""

    def __init__(self, values):
        self.values = list(values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return ListConfig(self.values[index]) if isinstance(index, slice) else self.values[index]

    def __setitem__(self, index, value):
        self.values[index] = value

    def __delitem__(self, index):
        del self.values[index]

    def insert(self, index, value):
        self.values.insert(index, value)


PAIRS = {
    "OmegaConf": ListConfig([0.75, 0.875]),
    "array": np.array([0.75, 0.875]),
    "NumPy scalars": (np.float32(0.75), np.float64(0.875)),
    "tensor": torch.tensor([0.75, 0.875]),
    "list": [0.75, 0.875],
    "view": {"beta1": 0.75, "beta2": 0.875}.values(),
}
RATES = [np.float32(0.125), np.float64(0.125), np.array(0.125), np.array([0.125])]
TEXTS = [b"1", "1", bytearray(b"1"), memoryview(b"1"), np.str_("1"), np.bytes_(b"1"), np.array("1"), np.complex64(1)]
NO_PAIRS = [b"ab", "ab", {0.1, 0.2}, {0.1: 0.2, 0.3: 0.4}, (0.9,), np.array(0.5), 0.5, None]


def expected():
    return train(torch.optim.AdamW(params_of(), lr=0.125, betas=(0.75, 0.875)), range(3))


@EVERY_BACKEND
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_betas_of_any_type_give_torchs_steps(backend, pair):
    opt = fl.AdamW(params_of(), lr=0.125, betas=pair, backend=backend)
    later = fl.AdamW(params_of(), lr=0.125, backend=backend)
    later.param_groups[0]["betas"] = pair
    for each in (opt, later):
        assert distance(train(each, range(3)), expected()) <= 1e-6  # float32, 3 steps; measured 2.4e-7
        assert list(map(float, through_a_file(each.state_dict())["param_groups"][0]["betas"])) == [0.75, 0.875]
    assert type(opt.param_groups[0]["betas"]) is tuple


def test_the_size_of_a_tensor_is_a_pair():
    zeros = fl.AdamW(params_of(), betas=torch.zeros(0, 0).shape)
    assert same_bits(train(zeros, range(2)), train(fl.AdamW(params_of(), betas=(0.0, 0.0)), range(2)))


@pytest.mark.parametrize("lr", RATES, ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}")
def test_rates_of_numpy_give_torchs_steps_and_plain_state_dicts(lr):
    opt, later = fl.AdamW(params_of(), lr=lr, betas=(0.75, 0.875)), fl.AdamW(params_of(), betas=(0.75, 0.875))
    later.param_groups[0]["lr"] = lr
    for each in (opt, later):
        assert distance(train(each, range(3)), expected()) <= 1e-6  # as above
        saved = through_a_file(each.state_dict())["param_groups"][0]
        assert type(saved["lr"]) is float and type(saved["base_lr"]) is float


def test_bias_corrections_of_numpy_numbers_are_computed_in_double_precision():
    """`1 - np.float32(0.999) ** step` would be a number of float32, a thousandth of whose digits are lost."""
    near = float(np.float32(0.999))
    opts = [fl.AdamW(params_of(dtype=torch.float64), betas=betas) for betas in ((0.5, near), (0.5, np.float32(near)))]
    assert same_bits(*(train(opt, range(3)) for opt in opts))


def test_integers_and_booleans_of_numpy_are_options():
    opt = fl.AdamW(params_of(torch.bfloat16), rounding_seed=np.int64(3), stochastic_rounding=np.bool_(True))
    assert opt.param_groups[0]["rounding_seed"] == 3
    train(opt, range(2))
    through_a_file(opt.state_dict())
    assert fl.SAM(opt, rho=np.float32(0.5), adaptive=np.bool_(True)).param_groups[0]["sam_rho"] == 0.5


def test_a_group_may_be_any_mapping():
    opt = fl.AdamW([MappingProxyType({"params": params_of(), "lr": 0.25}), {"params": [torch.ones(2)]}])
    assert [group["lr"] for group in opt.param_groups] == [0.25, 1e-3]


@pytest.mark.parametrize("text", TEXTS, ids=lambda value: type(value).__name__)
def test_text_is_no_number(text):
    for owner, name, build in (
        ("AdamW", "lr", lambda: fl.AdamW(params_of(), lr=text)),
        ("AdamW", "clip_grad_norm", lambda: fl.AdamW(params_of(), clip_grad_norm=text)),
        ("SAM", "rho", lambda: fl.SAM(fl.SGD(params_of()), rho=text)),
        ("here", "x", lambda: NON_NEGATIVE.check("here", "x", text)),
    ):
        with pytest.raises(ArgumentTypeError) as error:
            build()
        check_message(error, owner, name, "", "pass a number")


@pytest.mark.parametrize("text", TEXTS, ids=lambda value: type(value).__name__)
def test_text_in_a_live_group_is_refused_and_changes_nothing(text):
    for name in ("lr", "weight_decay", "eps"):
        opt = fl.AdamW(params_of())
        before, ages = train(opt, range(2)), [float(state["step"]) for state in state_of(opt)]
        kept, opt.param_groups[0][name] = opt.param_groups[0][name], text
        with pytest.raises(ArgumentTypeError) as error:
            train(opt, [2])
        check_message(error, "AdamW", name, f"{name}=", "set a number")
        assert same_bits([p.detach() for p in opt.param_groups[0]["params"]], before)
        assert [float(state["step"]) for state in state_of(opt)] == ages
        opt.param_groups[0][name] = kept
        whole = fl.AdamW(params_of())
        train(whole, range(2))
        assert same_bits(train(opt, [2]), train(whole, [2]))


@pytest.mark.parametrize("values", [(0.9, 0.999), (0.9, 0.99, 0.999, 0.9999), 0.9])
def test_what_is_not_three_numbers_is_refused_where_three_are_needed(values):
    with pytest.raises(ArgumentError) as error:
        fl.AdEMAMix(params_of(), betas=values)
    check_message(error, "AdEMAMix", "betas must be three numbers", "betas=", r"pass \(0.9, 0.999, 0.9999\)")
    with pytest.raises(ArgumentError, match=r"betas\[2\] must be in \[0, 1\), got 1"):
        fl.AdEMAMix(params_of(), betas=(0.9, 0.999, 1.0))


@pytest.mark.parametrize("values", NO_PAIRS, ids=str)
def test_what_holds_no_two_numbers_in_order_is_no_pair(values):
    with pytest.raises(ArgumentError) as error:
        fl.AdamW(params_of(), betas=values)
    check_message(error, "AdamW", "betas", "betas=", "0.9")
    opt = fl.AdamW(params_of())
    opt.param_groups[0]["betas"] = values
    with pytest.raises(ArgumentError) as error:
        train(opt, [0])
    check_message(error, "AdamW", "betas", "betas=", "0.9")
