"""Whatever carries an optimizer elsewhere (files, copies, pickles), the run goes on to the bit."""

import copy
import io
import pickle

import pytest
import torch

from variants import BACKENDS, CASES, IDS, REAL, parameter, same_bits, same_state, set_grads, state_of, train

EVERY_CASE = pytest.mark.parametrize(("cls", "name", "options"), CASES, ids=IDS)
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
SHAPES = ((), (5,), (3, 4))


def params_of(dtype=torch.float32):
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(SHAPES)]


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def check_goes_on_alike(opt, other):
    assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6)))
    assert same_state(opt, other)


@EVERY_BACKEND
@EVERY_CASE
def test_a_run_resumes_from_a_file_to_the_bit(cls, name, options, backend):
    opt = cls(params_of(), backend=backend, **options)
    weights = train(opt, range(3))
    saved = through_a_file(opt.state_dict())
    other = cls([torch.nn.Parameter(w) for w in weights], backend=backend, **options)
    other.load_state_dict(saved)
    check_goes_on_alike(opt, other)


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
def test_every_dtype_resumes_to_the_bit(dtype, backend):
    for cls, name, options in CASES:
        if name not in ("default", "everything"):
            continue
        opt = cls(params_of(dtype), backend=backend, **options)
        weights = train(opt, range(3))
        other = cls([torch.nn.Parameter(w) for w in weights], backend=backend, **options)
        other.load_state_dict(through_a_file(opt.state_dict()))
        check_goes_on_alike(opt, other)


@EVERY_CASE
def test_options_come_from_the_state_dict(cls, name, options):
    opt = cls(params_of(), lr=0.05, **options)  # the base that independent decay refers to
    opt.param_groups[0]["lr"] = 0.02
    weights = train(opt, range(3))
    other = cls([torch.nn.Parameter(w) for w in weights])
    other.load_state_dict(opt.state_dict())
    check_goes_on_alike(opt, other)


@EVERY_BACKEND
@EVERY_CASE
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_alike_and_shares_nothing(cls, name, options, backend, copier):
    opt = cls(params_of(), backend=backend, **options)
    train(opt, range(3))
    other = copier(opt)
    assert other.backend == backend
    before = [*(p.detach().clone() for p in opt.param_groups[0]["params"]), *flat_state(opt)]
    train(copier(other), range(3, 6))
    train(copier(opt), range(3, 6))
    assert same_bits(before, [*(p.detach() for p in opt.param_groups[0]["params"]), *flat_state(opt)])
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
    assert all(saved["param_groups"][0][k] == v for k, v in opt.param_groups[0].items() if k != "params")


def addresses(opt):
    state = [value for entries in opt.state.values() for value in entries.values()]
    lrs = [group["lr"] for group in opt.param_groups if isinstance(group["lr"], torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in [*state, *lrs]}


@EVERY_BACKEND
@EVERY_CASE
def test_a_late_gradient_counts_its_own_age(cls, name, options, backend):
    """A parameter among others moves as it does alone; `late` has gradients at these steps only."""
    steps = (3, 4, 7, 8, 9)
    early, late = parameter(5, seed=0), parameter(3, 4, seed=1)
    alone = parameter(3, 4, seed=1)
    opt, single = cls([early, late], backend=backend, **options), cls([alone], backend=backend, **options)
    for step in range(10):
        set_grads([early, late], step)
        if step in steps:
            alone.grad = late.grad.clone()
            single.step()
        else:
            late.grad = None
        opt.step()
        assert same_bits([late.detach()], [alone.detach()])
    assert same_bits(list(state_of(opt)[1].values()), list(state_of(single)[0].values()))


@EVERY_BACKEND
@EVERY_CASE
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


@EVERY_BACKEND
@EVERY_CASE
def test_groups_without_gradients_are_left_alone(cls, name, options, backend):
    groups = [{"params": params_of()}, {"params": [parameter(2, seed=9)]}]
    opt = cls(groups, backend=backend, **options)
    idle = groups[1]["params"][0]
    opt.step()  # no gradient anywhere
    assert not any(state_of(opt))
    twin = cls(params_of(), backend=backend, **options)
    for step in range(3):
        set_grads(groups[0]["params"], step)
        opt.step()
    assert same_bits([p.detach() for p in groups[0]["params"]], train(twin, range(3)))
    assert same_bits([idle.detach()], [parameter(2, seed=9).detach()])
    assert not opt.state.get(idle)
    loaded = cls([{"params": params_of()}, {"params": [parameter(2, seed=9)]}], backend=backend, **options)
    loaded.load_state_dict(opt.state_dict())
    assert same_state(opt, loaded)


def test_state_keeps_the_dtype_it_was_saved_with():
    for cls, name, options in CASES:
        if name not in ("default", "everything"):
            continue
        opt = cls(params_of(torch.bfloat16), **options)
        train(opt, range(2))
        wanted = [{key: value.dtype for key, value in state.items()} for state in state_of(opt)]
        assert {dtype for state in wanted for dtype in state.values()} <= {torch.float32}
        other = cls(params_of(torch.bfloat16), **options)
        other.load_state_dict(opt.state_dict())
        assert [{key: value.dtype for key, value in state.items()} for state in state_of(other)] == wanted


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_state_in_half_precision_is_served_alike_by_the_backends(low):
    """PyTorch saves the moments of half-precision weights in half precision."""
    for cls, name, options in CASES:
        if name != "everything":
            continue
        opt = cls(params_of(low), **options)
        train(opt, range(2))
        saved = opt.state_dict()
        for state in saved["state"].values():
            state.update({key: value.to(low) for key, value in state.items() if key != "step"})
        after = []
        for backend in BACKENDS:
            other = cls(params_of(low), backend=backend, **options)
            other.load_state_dict(saved)
            train(other, range(2, 4))
            assert {v.dtype for state in state_of(other) for k, v in state.items() if k != "step"} <= {low}
            after.append(flat_state(other))
        for *others, reference in zip(*after, strict=True):
            for ours in others:  # two ulps of bfloat16
                assert (ours.double() - reference.double()).abs().max() <= 2**-7 * ours.abs().max()
