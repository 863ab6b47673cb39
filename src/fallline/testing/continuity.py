"""Checks that a run continues bit-for-bit after saving and copying, after steps without gradient, and with idle groups.

A check raises ConformanceError with the reason of the failure.
"""

import copy
import inspect
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from fallline.core.optimizer import Optimizer
from fallline.testing.runs import parameter, same_bits, same_state, set_grads, state_of, train
from fallline.testing.subject import Subject, need, params_of, values_of

# On several processes, each one checks its own file. PyTorch 2.6 has no such option and saves without other processes
# only where torch.distributed is not initialized.
_ALONE: dict[str, Any] = {"no_dist": True} if "no_dist" in inspect.signature(save).parameters else {}


def _need_same_continuation(opt: Optimizer, other: Optimizer, what: str) -> None:
    need(same_bits(train(opt, range(3, 6)), train(other, range(3, 6))), f"{what}: the parameters differ afterwards")
    need(same_state(opt, other), f"{what}: the state differs afterwards")


def resumes_exactly(subject: Subject) -> None:
    """Check that a run resumes bit-for-bit from a file read with `weights_only=True`, and shares no memory."""
    for dtype in subject.dtypes:
        opt = subject.build(params_of(dtype=dtype))
        weights = train(opt, range(3))
        buffer = io.BytesIO()
        torch.save(opt.state_dict(), buffer)
        buffer.seek(0)
        other = subject.build([torch.nn.Parameter(w) for w in weights])
        other.load_state_dict(torch.load(buffer, weights_only=True))
        _need_same_continuation(opt, other, f"{dtype} from a file")
    other = subject.build([torch.nn.Parameter(w.clone()) for w in values_of(opt)])
    other.load_state_dict(opt.state_dict())
    kept = [value for state in state_of(opt) for value in state.values()]
    train(other, range(6, 8))
    need(
        same_bits(kept, [value for state in state_of(opt) for value in state.values()]),
        "after load_state_dict the two optimizers share state: a step of one changed the other",
    )


def resumes_from_a_distributed_checkpoint(subject: Subject) -> None:
    """Check that a new model and optimizer resume bit-for-bit from a `torch.distributed.checkpoint`."""

    def model(values: Iterable[torch.Tensor]) -> torch.nn.Module:
        named = {f"p{index}": torch.nn.Parameter(v.detach().clone()) for index, v in enumerate(values)}
        return torch.nn.ParameterDict(named)

    first = model(params_of(dtype=subject.dtypes[0]))
    opt = subject.build(first.parameters())
    train(opt, range(3))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable)")  # as intended
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # PyTorch 2.6 warns of its own code
        path = Path(folder, "checkpoint")
        save({"optimizer": get_optimizer_state_dict(first, opt)}, checkpoint_id=path, **_ALONE)
        second = model(first.parameters())
        other = subject.build(second.parameters())
        loaded = {"optimizer": get_optimizer_state_dict(second, other)}
        load(loaded, checkpoint_id=path, **_ALONE)
        set_optimizer_state_dict(second, other, loaded["optimizer"])
    need(same_bits(values_of(opt), values_of(other)), "loading moved the parameters")
    _need_same_continuation(opt, other, "distributed checkpoint")


def copies_continue_identically(subject: Subject) -> None:
    """Check that copies by deepcopy and pickle continue bit-for-bit and share no memory with the original."""
    copiers: dict[str, Callable[[Any], Any]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    }
    for name, copier in copiers.items():
        opt = subject.build(params_of(dtype=subject.dtypes[0]))
        train(opt, range(3))
        other = copier(opt)
        before = [*(p.clone() for p in values_of(opt)), *(v for s in state_of(opt) for v in s.values())]
        train(copier(other), range(3, 6))
        after = [*values_of(opt), *(v for s in state_of(opt) for v in s.values())]
        need(same_bits(before, after), f"{name}: a step of the copy changed the original")
        _need_same_continuation(opt, other, name)


def late_gradients_count_their_own_age(subject: Subject) -> None:
    """Check that a parameter that misses some gradients is updated as in an optimizer of its own."""
    if subject.cls.rule.sums:  # the update depends on the gradients of all parameters
        return
    early, late, alone = parameter(5), parameter(3, 4, seed=1), parameter(3, 4, seed=1)
    opt, single = subject.build([early, late]), subject.build([alone])
    for step in range(8):
        set_grads([early, late], step)
        if step in (3, 4, 7):
            assert late.grad is not None
            alone.grad = late.grad.clone()
            single.step()
        else:
            late.grad = None
        opt.step()
        need(
            same_bits([late.detach()], [alone.detach()]),
            f"at step {step} the parameter differs from the one in an optimizer of its own",
        )


def groups_without_gradients_are_left_alone(subject: Subject) -> None:
    """Check that a step without gradients changes nothing, and that a whole group may have no gradients."""
    dtype = subject.dtypes[0]
    busy, idle = params_of(dtype=dtype), parameter(2, seed=9, dtype=dtype)
    opt = subject.build([{"params": busy}, {"params": [idle]}])
    opt.step()
    need(not any(opt.state.values()), "a step without gradients created state")
    others = params_of(dtype=dtype)
    twin = subject.build(others)
    for step in range(3):
        for params, one in ((busy, opt), (others, twin)):
            set_grads(params, step)
            one.step()
    need(
        same_bits([p.detach() for p in busy], [p.detach() for p in others]), "a group without gradients changed others"
    )
    need(
        same_bits([idle.detach()], [parameter(2, seed=9, dtype=dtype).detach()]),
        "a parameter without a gradient changed",
    )
    for gone in (busy[:1], busy):  # parameters that had gradients in the step before
        before = [p.detach().clone() for p in gone]
        for param in gone:
            param.grad = None
        opt.step()
        need(same_bits([p.detach() for p in gone], before), "a parameter whose gradient was removed changed")
