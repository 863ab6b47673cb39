"""Mixed precision: under GradScaler a step unscales, clips and updates at once, or does nothing at all."""

import copy

import pytest
import torch

from fallline.schedules import StepDecay
from support.variants import (
    EVERY_BACKEND,
    EVERY_CLASS,
    ROUNDING,
    distance,
    parameter,
    same_bits,
    set_grads,
    state_of,
    variants,
)

SCALE = 2.0**12  # a power of two: scaling by it is exact
VARIANTS = ("default", pytest.param("everything", marks=pytest.mark.slow))


def build(cls, backend, variant):
    params = [parameter(3, 4, seed=1), parameter(5, seed=2)]
    return params, cls(params, backend=backend, clip_grad_norm=1.0, **variants(cls)[variant])


def scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.zeros(()))  # as every loop does; it makes the scale a tensor
    return scaler


def set_scaled_grads(params, step, scaler, bad=False):
    set_grads(params, step)
    for p in params:
        p.grad *= scaler.get_scale()
    if bad:
        params[-1].grad.view(-1)[0] = float("inf")


def agree(one, other, backend):
    """A kernel that unscales may fuse another product with a sum, so that it rounds elsewhere."""
    (params, opt), (others, reference) = one, other
    states, references = state_of(opt), state_of(reference)
    assert [state.keys() for state in states] == [state.keys() for state in references]
    tensors = [*params, *(value for state in states for value in state.values())]
    expected = [*others, *(state[key] for own, state in zip(states, references, strict=True) for key in own)]
    limit = 0 if backend == "reference" else ROUNDING[torch.float32]
    return distance(tensors, expected) <= limit and opt.grad_norm == pytest.approx(reference.grad_norm, rel=1e-7)


@EVERY_BACKEND
@EVERY_CLASS
@pytest.mark.parametrize("variant", VARIANTS)
def test_scaled_steps_are_the_unscaled_ones(cls, backend, variant):
    (params, opt), (others, plain) = build(cls, backend, variant), build(cls, backend, variant)
    amp = scaler()
    for step in range(3):
        set_scaled_grads(params, step, amp)
        set_grads(others, step)
        before = [p.grad.clone() for p in params]
        amp.step(opt)
        amp.update()
        plain.step()
        assert same_bits(before, [p.grad for p in params])
    assert agree((params, opt), (others, plain), backend)


@EVERY_BACKEND
@EVERY_CLASS
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("by_hand", [False, True], ids=["step", "unscale_"])
@pytest.mark.parametrize("skipped", [0, 1], ids=["first", "second"])
def test_a_skipped_step_changes_nothing_and_the_next_is_right(cls, backend, variant, by_hand, skipped):
    (params, opt), (others, plain) = build(cls, backend, variant), build(cls, backend, variant)
    schedule = StepDecay(opt, step_size=100)
    amp = scaler()
    for step in range(3):
        kept, frozen = [p.detach().clone() for p in params], copy.deepcopy(opt)
        set_scaled_grads(params, step, amp, bad=step == skipped)
        if by_hand:
            amp.unscale_(opt)
        amp.step(opt)
        amp.update()
        schedule.step()
        if step == skipped:
            assert same_bits(params, kept)
            assert opt.state_dict()["state"].keys() == frozen.state_dict()["state"].keys()
            assert all(map(same_bits, *([list(s.values()) for s in state_of(o)] for o in (opt, frozen))))
        else:
            set_grads(others, step)
            plain.step()
    assert schedule.last_epoch == 2
    assert agree((params, opt), (others, plain), backend)
    assert amp.get_scale() == SCALE / 2
