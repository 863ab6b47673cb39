"""What holds for the numbers of every optimizer, on every backend, in every dtype and memory layout."""

import inspect

import pytest
import torch

import fallline
from fallline.backends.fused import bucket as fused
from fallline.backends.fused.bucket import FusedBucket
from fallline.rules.update import update_for
from fallline.testing.numerics import LAYOUTS
from support.variants import (
    CASES,
    EVERY_BACKEND,
    EVERY_CASE,
    REAL,
    ROUNDING,
    distance,
    normal,
    parameter,
    same_bits,
    set_grads,
    state_of,
    train,
)

SHAPES = ((), (1,), (5,), (3, 4), (2, 3, 4, 2), (1000,))


def params_of(shapes=SHAPES, dtype=torch.float32):
    return [parameter(*shape, seed=index, dtype=dtype) for index, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_fused_backend_serves_plain_tensors_itself(dtype):
    """Otherwise the two backends agree because they are one."""
    for cls, _, options in CASES:
        if cls.rule.shapes:
            continue  # kernels see tensors of one shape
        shapes = [(), (3,)] if cls.rule.whole else [(), (3, 4)]  # kernels see elements, not matrices
        opt = cls(params_of(shapes, dtype), backend="fused", **options)
        set_grads(opt.param_groups[0]["params"], 0)
        plan = opt._make_plan([update_for(opt.rule_of(group), group) for group in opt.param_groups])
        assert {type(bucket) for bucket in plan.buckets} == {FusedBucket}


@EVERY_BACKEND
def test_a_conjugated_view_is_updated(backend):
    for cls, _, options in CASES:
        plain = parameter(5, dtype=torch.complex64)
        view = torch.nn.Parameter(plain.detach().conj().resolve_conj().conj())
        assert view.is_conj()
        one, other = cls([plain], backend=backend, **options), cls([view], backend=backend, **options)
        assert same_bits(train(one, range(3)), [p.resolve_conj() for p in train(other, range(3))])


@EVERY_BACKEND
@EVERY_CASE
def test_maximize_is_the_negated_gradient(cls, name, options, backend):
    params, twins = params_of([(5,), (3, 4)]), params_of([(5,), (3, 4)])
    opt = cls(params, backend=backend, **{**options, "maximize": True})
    twin = cls(twins, backend=backend, **{**options, "maximize": False})
    for step in range(4):
        set_grads(params, step)
        for p, q in zip(params, twins, strict=True):
            q.grad = -p.grad
        opt.step()
        twin.step()
    assert distance(params, twins) <= ROUNDING[torch.float32]  # a contraction may take in the sign


@EVERY_CASE
def test_threads_and_chunks_do_not_change_a_bit(cls, name, options, monkeypatch):
    if options.get("precondition_1d"):
        return  # BLAS adds in another order with other threads
    monkeypatch.setattr(fused, "PARALLEL", 0)
    results = []
    threads = torch.get_num_threads()
    try:
        for count, chunk in ((1, fused.CHUNK), (1, 77), (2, 77), (3, 512)):
            torch.set_num_threads(count)
            monkeypatch.setattr(fused, "CHUNK", chunk)
            opt = cls(params_of([(2000,), (3, 4)]), **options)
            results.append([*train(opt, range(4)), *(v for state in state_of(opt) for v in state.values())])
    finally:
        torch.set_num_threads(threads)
    assert all(same_bits(results[0], other) for other in results[1:])


@EVERY_BACKEND
def test_the_sign_of_inf_is_one_and_of_nan_zero(backend):
    """As in PyTorch: Lion steps by lr against an infinite gradient, and its momentum tells of the NaN."""
    for dtype in (torch.float32, torch.float64):
        param = torch.nn.Parameter(torch.zeros(5, dtype=dtype))
        param.grad = torch.tensor([float("nan"), float("inf"), float("-inf"), 1.0, 0.0], dtype=dtype)
        opt = fallline.Lion([param], lr=0.5, backend=backend)
        opt.step()
        assert param.tolist() == [0.0, -0.5, 0.5, -0.5, 0.0]
        assert opt.state[param]["exp_avg"].isnan().tolist() == [True, False, False, False, False]


@EVERY_BACKEND
@EVERY_CASE
def test_nan_and_inf_propagate_as_in_torch(cls, name, options, backend):
    torch_class = getattr(torch.optim, cls.__name__, None)
    if cls.rule.whole:
        return  # one NaN reaches the whole matrix; see tests/optimizers/test_muon.py
    if torch_class is None or not options.keys() <= inspect.signature(torch_class).parameters.keys():
        return  # torch has no such option; the variants without it are compared
    values = torch.tensor([1.0, float("nan"), float("inf"), float("-inf"), 0.0, 1e-30, -1e18, 2.0])
    ours, theirs = parameter(8), parameter(8)
    opt, torch_opt = cls([ours], backend=backend, **options), torch_class([theirs], **options)
    for step in range(3):
        for p in (ours, theirs):
            p.grad = values.clone() if step == 1 else normal(8, seed=step)
        opt.step()
        torch_opt.step()
        mine, other = ({"param": p, **each.state[p]} for p, each in ((ours, opt), (theirs, torch_opt)))
        for key in mine:
            assert torch.equal(mine[key].isfinite(), other[key].isfinite()), key
        # An Inf in the state may stay one where torch, which interpolates, gets Inf − Inf, and so may the parameter.
        assert torch.equal(ours.isnan(), theirs.isnan()) if step < 2 else not (ours.isnan() & ~theirs.isnan()).any()


@EVERY_BACKEND
def test_gradient_data_may_be_swapped_for_another_layout(backend):
    for cls, _, options in CASES:
        (param, twin) = (parameter(4, 4) for _ in range(2))
        opt, other = cls([param], backend=backend, **options), cls([twin], backend="reference", **options)
        for step, lay in enumerate([LAYOUTS[name] for name in ("contiguous", "transposed", "strided", "contiguous")]):
            set_grads([twin], step)
            if param.grad is None:
                param.grad = torch.zeros(4, 4)
            param.grad.data = lay(twin.grad)  # the same object as in the last step
            opt.step()
            other.step()
            assert distance([param], [twin]) <= ROUNDING[torch.float32]


@EVERY_BACKEND
def test_a_gradient_expanded_from_one_number_is_right(backend):
    for cls, _, options in CASES:
        param, twin = parameter(3, 4), parameter(3, 4)
        opt, other = cls([param], backend=backend, **options), cls([twin], backend="reference", **options)
        for step in range(3):
            param.grad, twin.grad = torch.tensor(step - 0.5).expand(3, 4), torch.full((3, 4), step - 0.5)
            opt.step()
            other.step()
        assert distance([param], [twin]) <= ROUNDING[torch.float32]
