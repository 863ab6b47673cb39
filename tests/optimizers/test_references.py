"""Nothing keeps a model, an optimizer or its state alive after the user has dropped them."""

import gc
import warnings
import weakref

import pytest
import torch

import fallline as fl
from fallline.errors import StateWarning
from support.variants import EVERY_CLASS


def backward(model):
    model(torch.ones(2, 3)).sum().backward()


def refs_to(*objects):
    return [weakref.ref(each) for each in objects]


def alive(refs):
    gc.collect()
    return [ref() for ref in refs if ref() is not None]


@EVERY_CLASS
def test_a_model_that_steps_in_the_backward_pass_is_freed(cls):
    if cls.rule.sums:  # refused, see test_prodigy.py
        return

    def train():
        model = torch.nn.Linear(3, 2)
        opt = cls(model.parameters(), ema_decay=0.5)
        handle = fl.step_in_backward(model, opt)
        backward(model)
        return refs_to(model, opt, handle, *model.parameters(), *(s["ema"] for s in opt.state.values()))

    assert not alive(train())


def test_a_model_is_freed_after_remove_and_after_an_error_in_between():
    def train():
        model = torch.nn.Linear(3, 2)
        handle = fl.step_in_backward(model, opt := fl.AdamW(model.parameters()))
        with pytest.raises(RuntimeError, match="stop"), handle.accumulate():
            backward(model)
            raise RuntimeError("stop")
        backward(model)
        handle.remove()
        return refs_to(model, opt, *model.parameters())

    assert not alive(train())


def test_sam_with_a_model_is_freed():
    def train():
        model = torch.nn.Linear(3, 2)
        opt = fl.SAM(fl.AdamW(model.parameters()), model=model)
        backward(model)
        opt.first_step()
        opt.second_step()
        return refs_to(model, opt, opt.base, *model.parameters())

    assert not alive(train())


@pytest.mark.parametrize("kept", ["optimizer", "handle", "both"])
def test_the_optimizer_or_the_handle_keeps_the_updates(kept):
    model = torch.nn.Linear(3, 2)
    opt = fl.SGD(model.parameters(), lr=0.5)
    handle = fl.step_in_backward(model, opt)
    if kept == "optimizer":
        del handle
    elif kept == "handle":
        del opt
    gc.collect()
    before = model.bias.detach().clone()
    backward(model)
    assert torch.equal(model.bias, before - 0.5 * 2) and model.bias.grad is None


def test_the_model_alone_is_not_trained_and_says_so_once():
    model = torch.nn.Linear(3, 2)
    fl.step_in_backward(model, fl.SGD(model.parameters(), lr=0.5))
    gc.collect()
    before = model.bias.detach().clone()
    with pytest.warns(StateWarning, match=r"the optimizer no longer exists, so .* Keep a reference to the optimizer"):
        backward(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(model)
    assert torch.equal(model.bias, before) and torch.equal(model.bias.grad, torch.tensor([4.0, 4.0]))
    opt = fl.SGD(model.parameters(), lr=0.5)
    fl.step_in_backward(model, opt)  # the parameters are free for another optimizer
    backward(model)
    assert model.bias.grad is None
