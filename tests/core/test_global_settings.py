"""Where PyTorch's global settings put new tensors, and how, does not matter to an optimizer."""

import contextlib
import copy
import shutil

import pytest
import torch

import fallline as fl
from support.variants import EVERY_BACKEND, EVERY_CLASS, params_of, same_bits, same_state, set_grads, train


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "with torch.device": lambda: torch.device("meta"),  # a device that every machine has
    "set_default_device": lambda: default_device("meta"),
    "set_default_dtype": lambda: default_dtype(torch.float64),
    "inference_mode": torch.inference_mode,
}
EVERY_SETTING = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def values(opt):
    return [param for group in opt.param_groups for param in group["params"]]


def check_state(opt):
    for state in opt.state.values():
        assert {value.device.type for value in state.values()} <= {"cpu"}
        assert not any(value.is_inference() for value in state.values())


@EVERY_SETTING
@EVERY_BACKEND
@EVERY_CLASS
def test_steps_under_a_setting_are_the_usual_steps(cls, backend, setting):
    """The first and the third step run under the setting, the others outside of it."""
    options = {"backend": backend, "ema_decay": 0.5, "clip_grad_norm": 0.5}
    opt, twin = cls(params_of(), **options), cls(params_of(), **options)
    for step in range(4):
        set_grads(values(opt), step)
        with setting() if step % 2 == 0 else contextlib.nullcontext():
            opt.step()
    assert same_bits([p.detach() for p in values(opt)], train(twin, range(4)))
    check_state(opt)
    assert same_state(opt, twin)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.compile's own parts
@pytest.mark.parametrize("setting", list(SETTINGS.values())[:3], ids=list(SETTINGS)[:3])  # it needs gradients
def test_compiled_passes_put_their_numbers_on_the_device_of_the_parameters(setting):
    opt, twin = (fl.SGD([torch.nn.Parameter(torch.ones(3))], backend=backend) for backend in ("compile", "reference"))
    train(twin, [0])
    set_grads(opt.param_groups[0]["params"], 0)
    with setting():
        opt.step()
    assert torch.allclose(opt.param_groups[0]["params"][0], twin.param_groups[0]["params"][0])


@EVERY_SETTING
@EVERY_CLASS
def test_a_state_dict_loaded_under_a_setting_can_be_used(cls, setting):
    opt = cls(params_of(), ema_decay=0.5)
    train(opt, range(2))
    saved = copy.deepcopy(opt.state_dict())
    for state in saved["state"].values():
        state["slow_params"] = torch.ones(2)
    other = cls([torch.nn.Parameter(p.detach().clone()) for p in values(opt)])
    with setting():
        other.load_state_dict(saved)
    check_state(other)
    assert same_bits(train(other, range(2, 4)), train(opt, range(2, 4)))


@EVERY_SETTING
def test_both_phases_of_sam_may_run_under_a_setting(setting):
    opt, twin = (fl.SAM(fl.AdamW(params_of(), lr=0.1)) for _ in range(2))
    for each, context in ((opt, setting), (twin, contextlib.nullcontext)):
        params = each.param_groups[0]["params"]
        for step in range(2):
            set_grads(params, 2 * step)
            with context():
                each.first_step()
            set_grads(params, 2 * step + 1)
            with context():
                each.second_step()
    assert same_bits(*([p.detach() for p in each.param_groups[0]["params"]] for each in (opt, twin)))
    check_state(opt.base)


@EVERY_SETTING
def test_rates_that_groups_share_are_split_into_usable_tensors(setting):
    rate = torch.tensor(0.1)
    first, second = params_of()[1:]
    opt = fl.AdamW([{"params": [first]}, {"params": [second]}], lr=rate)
    saved = copy.deepcopy(opt.state_dict())
    saved["param_groups"][1]["lr"] = 0.05
    with setting():
        opt.load_state_dict(saved)
    for group, lr in zip(opt.param_groups, (0.1, 0.05), strict=True):
        assert group["lr"].device.type == "cpu" and not group["lr"].is_inference()
        assert group["lr"].item() == pytest.approx(lr)
