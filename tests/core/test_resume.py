"""Whatever carries an optimizer elsewhere (files, copies, pickles), the run goes on to the bit."""

import pytest
import torch

from support.variants import (
    BACKENDS,
    CASES,
    EVERY_BACKEND,
    EVERY_CASE,
    EVERY_END,
    parameter,
    params_of,
    same_bits,
    same_state,
    set_grads,
    state_of,
    train,
)


def check_goes_on_alike(opt, other):
    assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6)))
    assert same_state(opt, other)


@EVERY_CASE
def test_options_come_from_the_state_dict(cls, name, options):
    opt = cls(params_of(), lr=0.05, **options)  # the base that independent decay refers to
    opt.param_groups[0]["lr"] = 0.02
    weights = train(opt, range(3))
    other = cls([torch.nn.Parameter(w) for w in weights])
    other.load_state_dict(opt.state_dict())
    check_goes_on_alike(opt, other)


def flat_state(opt):
    return [value for state in state_of(opt) for value in state.values()]


@EVERY_CASE
def test_nothing_is_aliased_after_loading(cls, name, options):
    lr = torch.tensor(0.01, dtype=torch.float64)
    opt, other = cls(params_of(), lr=lr, **options), cls(params_of(), lr=lr.clone(), **options)
    train(opt, range(3))
    saved = opt.state_dict()
    other.load_state_dict(saved)
    assert not addresses(opt) & addresses(other)
    fresh = cls(params_of(), **options)
    fresh.load_state_dict(saved)
    assert not addresses(opt) & addresses(fresh)
    before = flat_state(opt)
    train(other, range(3, 5))
    train(fresh, range(3, 5))
    assert same_bits(before, flat_state(opt))
    for group, kept in zip(opt.param_groups, saved["param_groups"], strict=True):
        assert all(kept[k] == v for k, v in group.items() if k not in ("params", "weight_decay"))
        # With its mode where PyTorch's class would decay in another way.
        assert kept["weight_decay"] in (group["weight_decay"], (group["weight_decay_mode"], group["weight_decay"]))


def addresses(opt):
    state = [value for entries in opt.state.values() for value in entries.values()]
    lrs = [group["lr"] for group in opt.param_groups if isinstance(group["lr"], torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in [*state, *lrs]}


@EVERY_BACKEND
@EVERY_END
def test_a_state_dict_follows_the_run_until_it_is_copied(cls, name, options, backend):
    """As PyTorch's does, through changes of the set of gradients, which make the optimizer plan anew."""
    first, second = parameter(5, seed=0), parameter(3, 4, seed=1)
    opt = cls([first, second], backend=backend, **options)
    train(opt, range(2))
    saved = opt.state_dict()
    for step in range(2, 6):
        set_grads([first, second], step)
        if step % 2:
            first.grad = None
        opt.step()
    for index, param in enumerate((first, second)):
        live, shown = opt.state.get(param, {}), saved["state"].get(index, {})
        assert live.keys() == shown.keys() and all(live[key] is shown[key] for key in live)
        assert float(shown.get("step", 4 + 2 * index)) == 4 + 2 * index


def test_state_keeps_the_dtype_it_was_saved_with():
    for cls, name, options in CASES:
        if name not in ("default", "everything"):
            continue
        opt = cls(params_of(torch.bfloat16), **options)
        train(opt, range(2))
        wanted = [{key: value.dtype for key, value in state.items()} for state in state_of(opt)]
        numbers = cls.rule.scalar_state  # float64
        assert {dtype for state in wanted for key, dtype in state.items() if key not in numbers} <= {torch.float32}
        other = cls(params_of(torch.bfloat16), **options)
        other.load_state_dict(opt.state_dict())
        assert [{key: value.dtype for key, value in state.items()} for state in state_of(other)] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_state_in_half_precision_is_served_alike_by_the_backends(low):
    """PyTorch saves the moments of half-precision weights in half precision."""
    for cls, name, options in CASES:
        if name != "everything":
            continue
        opt, exact = cls(params_of(low), **options), {"step", *cls.rule.scalar_state}
        train(opt, range(2))
        saved = opt.state_dict()
        for state in saved["state"].values():
            state.update({key: value.to(low) for key, value in state.items() if key not in exact})
        after = []
        for backend in BACKENDS:
            other = cls(params_of(low), backend=backend, **options)
            other.load_state_dict(saved)
            train(other, range(2, 4))
            assert {v.dtype for state in state_of(other) for k, v in state.items() if k not in exact} <= {low}
            after.append(flat_state(other))
        for *others, reference in zip(*after, strict=True):
            for ours in others:  # two ulps of bfloat16; steps of whole matrices spread a rounding to other elements
                limit = 2**-6 if cls.rule.whole else 2**-7
                assert (ours.double() - reference.double()).abs().max() <= limit * ours.abs().max()
