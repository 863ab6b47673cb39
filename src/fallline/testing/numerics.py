"""Checks of the results of a step, for every backend, dtype, shape and memory layout.

A check raises ConformanceError with the reason of the failure.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fallline.core.state import real_shape
from fallline.errors import ArgumentTypeError
from fallline.testing.runs import (
    ROUNDING,
    distance,
    normal,
    parameter,
    same_bits,
    same_state,
    set_grads,
    state_of,
    train,
)
from fallline.testing.subject import ConformanceError, Subject, need, params_of, values_of


def follows_the_oracle(subject: Subject) -> None:
    """Check that the reference backend in float64 follows the oracle, to 1e-12 of the largest element."""
    if subject.oracle is None or subject.backend != "reference":
        return
    lr = float(subject.build(params_of()).defaults["lr"])
    params = params_of(dtype=torch.float64)
    opt = subject.build(params)
    values: list[Any] = [p.detach().numpy().copy() for p in params]
    states: list[dict[str, Any]] = [{} for _ in params]
    for step in range(50):
        set_grads(params, step)
        for index, param in enumerate(params):
            assert param.grad is not None
            new = subject.oracle(values[index], param.grad.numpy(), states[index], lr, lr, **subject.options)
            values[index] = np.asarray(new)
        opt.step()
    far = distance([torch.from_numpy(value) for value in values], params)
    need(far <= 1e-12, f"after 50 steps the parameters differ from the oracle by {far:.1e} of the largest element")


def backends_agree(subject: Subject) -> None:
    """Check that the backend agrees with the reference backend, up to rounding, in every real dtype."""
    for dtype in subject.dtypes:
        ours, theirs = subject.build(params_of(dtype=dtype)), subject.reference(params_of(dtype=dtype))
        far = distance(train(ours, range(6)), train(theirs, range(6)))
        need(far <= ROUNDING[dtype], f"{dtype}: parameters differ by {far:.1e}, more than {ROUNDING[dtype]:.1e}")
        for mine, other in zip(state_of(ours), state_of(theirs), strict=True):
            need(mine.keys() == other.keys(), f"{dtype}: the state has {list(mine)}, the reference's {list(other)}")
            for key in mine:
                kinds = (mine[key].dtype, other[key].dtype)
                need(kinds[0] == kinds[1], f"{dtype}: {key} is {kinds[0]}, the reference's {kinds[1]}")
                far = distance([mine[key]], [other[key]])
                need(far <= ROUNDING[dtype], f"{dtype}: {key} differs by {far:.1e}, more than {ROUNDING[dtype]:.1e}")


def gradients_are_only_read(subject: Subject) -> None:
    """Check that `step` neither replaces nor modifies any `.grad`."""
    params = params_of()
    opt = subject.build(params)
    for step in range(3):
        set_grads(params, step)
        grads = [p.grad for p in params]
        before = [g.clone() for g in grads if g is not None]
        opt.step()
        need(all(p.grad is g for p, g in zip(params, grads, strict=True)), "step() replaced a .grad")
        need(same_bits([g for g in grads if g is not None], before), "step() wrote to a .grad")


def every_shape_works(subject: Subject) -> None:
    """Check that 0-d and empty tensors can be updated."""
    shapes = [(0,), (3, 0), (), (1, 1)]
    for dtype in (*subject.dtypes, torch.complex64):
        params = params_of(shapes, dtype)
        opt = subject.build(params, lr=0.1)
        train(opt, range(3))
        numbers = {"step", *subject.cls.rule.scalar_state}
        need([tuple(p.shape) for p in params] == shapes, f"{dtype}: a shape changed")
        need(all(bool(p.isfinite().all()) for p in params), f"{dtype}: a parameter is not finite")
        owners = {param: group for group in opt.param_groups for param in group["params"]}
        for param in params:
            rule, own = opt.rule_of(owners[param]), real_shape(param)
            wanted = rule.state_shapes(own, owners[param])
            state = {k: v for k, v in opt.state[param].items() if v is not None and k not in numbers}
            wrong = [k for k, v in state.items() if real_shape(v) != wanted.get(k, own)]
            need(not wrong, f"{dtype}: {wrong} of a parameter of shape {tuple(param.shape)} has another shape")


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "transposed": lambda x: x.mT.contiguous().mT,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "reversed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "strided": lambda x: torch.stack([x, torch.full_like(x, 9.0)], dim=-1)[..., 0],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "negative view": lambda x: torch._neg_view(-x),
}


def layouts_do_not_matter(subject: Subject) -> None:
    """Check that results do not depend on the memory layout; every pair of parameter and gradient layout occurs."""
    layouts = list(LAYOUTS.values())
    starts = [normal(2, 3, 4, 4, seed=index) for index in range(len(layouts))]
    params = [torch.nn.Parameter(lay(x)) for lay, x in zip(layouts, starts, strict=True)]
    twins = [torch.nn.Parameter(x) for x in starts]
    opt, twin = subject.build(params), subject.reference(twins)
    for step in range(len(layouts)):
        set_grads(twins, step)
        for index, (p, q) in enumerate(zip(params, twins, strict=True)):
            assert q.grad is not None
            p.grad = layouts[(step + index) % len(layouts)](q.grad)
        opt.step()
        twin.step()
        for name, p, q in zip(LAYOUTS, params, twins, strict=True):
            far = distance([p], [q])
            need(far <= ROUNDING[torch.float32], f"the results of a {name} parameter differ by {far:.1e}")


def complex_is_two_reals(subject: Subject) -> None:
    """Check that a complex parameter is updated like its real view."""
    for dtype in (torch.complex64, torch.complex128):
        whole, parts = parameter(3, 4, dtype=dtype), torch.nn.Parameter(torch.view_as_real(normal(3, 4, dtype=dtype)))
        opt, twin = subject.build([whole]), subject.reference([parts])
        for step in range(4):
            grad = normal(3, 4, seed=step + 1, dtype=dtype)
            whole.grad = grad.conj().resolve_conj().conj()  # a conjugated view, as autograd may return
            parts.grad = torch.view_as_real(grad)
            opt.step()
            twin.step()
        need(same_bits([torch.view_as_real(whole.detach())], [parts.detach()]), f"{dtype} differs from its real view")


def half_precision_is_rounded_once(subject: Subject) -> None:
    """Check that bfloat16 and float16 parameters are computed in float32 and rounded at the end of each step."""
    for dtype in {torch.bfloat16, torch.float16} & {*subject.dtypes}:
        half, wide = parameter(100, dtype=dtype), parameter(100)
        opt, twin = subject.build([half]), subject.build([wide])
        for step in range(4):
            wide.data.copy_(half.data)
            set_grads([half], step)
            assert half.grad is not None
            wide.grad = half.grad.float()
            opt.step()
            twin.step()
            ulp = torch.finfo(dtype).eps * torch.exp2(wide.detach().abs().log2().floor().clamp(min=-14))
            # Two kernels may contract differently, which gives an error of one ulp of float32: 2^-13 ulp of float16.
            near = ((half.detach().float() - wide.detach()).abs() <= 0.501 * ulp).all()
            need(bool(near), f"{dtype}: step {step} is not the float32 step rounded to nearest")


def lr_zero_holds_still(subject: Subject) -> None:
    """Check that no parameter changes at lr 0, and that the state is the same as at any other lr."""
    still, moving = subject.build(params_of(), lr=0.0), subject.build(params_of())
    for group in still.param_groups:  # an option may set another rate for some groups
        group["lr"] = 0.0
    start = [p.clone() for p in values_of(still)]
    need(same_bits(train(still, [0]), start), "a parameter changed")
    train(moving, [0])
    rule = subject.cls.rule
    of_lr = {"ema", *rule.copies, *rule.steps, *(rule.scalar_state if "lr" in rule.advance_arguments else ())}
    for opt in (still, moving):
        for state in opt.state.values():
            for key in of_lr & state.keys():
                del state[key]  # averages, other iterates, steps and sums of learning rates depend on lr
    need(same_state(still, moving), "the state after a first step depends on lr")
    still = subject.build(params_of(), lr=0.0)
    train(still, [0])
    still.param_groups[0]["lr"] = 0.01
    need(all(bool(p.isfinite().all()) for p in train(still, range(1, 4))), "a later step is not finite")


def a_tensor_lr_is_a_number(subject: Subject) -> None:
    """Check that a tensor lr gives the same results as the number, and is neither replaced nor modified."""
    lr = torch.tensor(0.0078125, dtype=torch.float64)
    opt, twin = subject.build(params_of(), lr=lr), subject.build(params_of(), lr=0.0078125)
    need(same_bits(train(opt, range(3)), train(twin, range(3))), "a tensor lr gives other results than the same number")
    need(any(group["lr"] is lr for group in opt.param_groups), "the tensor was replaced")
    need(lr.item() == 0.0078125, "the tensor was modified")


def zero_norms_stay_finite(subject: Subject) -> None:
    """Check that parameters and gradients of 0 give finite results."""
    for value, slope in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        param = torch.nn.Parameter(torch.full((5,), value))
        opt = subject.build([param])
        for _ in range(3):
            param.grad = torch.full((5,), slope)
            opt.step()
            need(bool(param.isfinite().all()), f"parameters of {value:g} with gradients of {slope:g} become {param[0]}")


def thread_count_does_not_matter(subject: Subject) -> None:
    """Check that one and two threads give identical results on tensors that are large enough to be split."""
    threads, results = torch.get_num_threads(), []
    elements = 1_500_000 if subject.backend == "fused" else 150_000  # PyTorch uses threads from 32,768 elements on
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            opt = subject.build([parameter(elements), parameter(3, 4)])
            results.append([*train(opt, range(2)), *(v for state in state_of(opt) for v in state.values())])
    finally:
        torch.set_num_threads(threads)
    need(same_bits(*results), "the results with one and two threads are not bit-for-bit identical")


def a_step_raises_the_version_counter(subject: Subject) -> None:
    """Check that autograd detects the update of a parameter that it has saved."""
    param = parameter(4)
    opt = subject.build([param])
    for step in range(3):
        loss = (param * param).sum()
        set_grads([param], step)
        version = param._version
        opt.step()
        need(param._version > version, f"step {step} did not increase the version counter of the parameter")
        try:
            loss.backward()
        except RuntimeError:
            continue
        raise ConformanceError(
            f"after step {step} backward() must raise an error if a parameter that it needs has been updated in place, "
            "got none"
        )


def unknown_keywords_raise(subject: Subject) -> None:
    """Check that an unknown keyword raises an error that lists the known ones."""
    try:
        subject.build([parameter(2)], learning_rte=0.1)
    except ArgumentTypeError as error:
        need("lr" in str(error), f"the message does not list the known keywords: {error}")
        return
    raise ConformanceError("learning_rte=0.1 was accepted without an error")


def nan_reaches_the_parameter(subject: Subject) -> None:
    """Check that a NaN in a gradient appears in the parameter or its state."""
    param = parameter(4, dtype=subject.dtypes[0])
    opt = subject.build([param], lr=0.1)
    param.grad = torch.tensor([math.nan, 1.0, 1.0, 1.0], dtype=param.dtype)
    opt.step()
    values = [param.detach(), *state_of(opt)[0].values()]
    need(any(bool(value.isnan().any()) for value in values), "neither the parameter nor its state contains the NaN")
