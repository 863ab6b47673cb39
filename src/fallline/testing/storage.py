"""Checks of parameters and states that are stored in fewer bits than they are computed in.

A check raises ConformanceError with the reason of the failure.
"""

import torch

from fallline.testing.runs import ROUNDED, Options, normal, parameter, state_of, train
from fallline.testing.subject import Subject, need, params_of

_LOW = torch.bfloat16
# By name, the dtype of the parameters and the options.
STORAGES: dict[str, tuple[torch.dtype, Options]] = {
    "bfloat16 state": (torch.float32, {"state_dtype": _LOW}),
    "int8 state": (torch.float32, {"state_dtype": "int8"}),
    "rounded": (_LOW, {"stochastic_rounding": True, "state_dtype": _LOW}),
    "master weights": (_LOW, {"master_weights": True}),
    "split32": (_LOW, {"master_weights": "split32", "state_dtype": _LOW}),
    "split24": (_LOW, {"master_weights": "split24", "state_dtype": "int8"}),
}


def rounds_as_the_reference(subject: Subject) -> None:
    """Check that the backend stores what the reference backend stores, except for at most 2 % of the elements."""
    if subject.backend == "reference":
        return
    (dtype,) = subject.dtypes
    ours, theirs = subject.build(params_of(dtype=dtype)), subject.reference(params_of(dtype=dtype))
    pairs = list(zip(train(ours, range(6)), train(theirs, range(6)), strict=True))
    for mine, other in zip(state_of(ours), state_of(theirs), strict=True):
        kinds = [{key: value.dtype for key, value in state.items()} for state in (mine, other)]
        need(kinds[0] == kinds[1], f"the state has {kinds[0]}, that of the reference backend {kinds[1]}")
        pairs += [(mine[key], other[key]) for key in mine]
    far = sum(int((one.double() - other.double()).abs().gt(1e-3 * other.double().abs()).sum()) for one, other in pairs)
    elements = sum(one.numel() for one, _ in pairs)
    need(far <= 0.02 * elements, f"{far} of {elements} numbers differ from those of the reference backend")


def moves_like_float32(subject: Subject) -> None:
    """Check that 20 steps move parameters as far as with float32 parameters and states, on average."""
    (dtype,) = subject.dtypes
    if subject.cls.rule.sums:  # they estimate the learning rate from the first, tiny steps, which fewer bits make noisy
        return
    plain = {key: value for key, value in subject.options.items() if key not in ROUNDED}
    start, moves = parameter(600, dtype=dtype).detach(), []
    for kind, options in ((dtype, subject.options), (torch.float32, plain)):
        param = torch.nn.Parameter(start.to(kind, copy=True))
        opt = subject.cls([param], lr=0.01, backend=subject.backend, **options)
        for step in range(20):
            param.grad = (normal(600, seed=1) + 0.5 * normal(600, seed=step + 2)).to(kind)
            opt.step()
        moves.append(param.detach().double() - start.double())
    share = float((moves[0] * moves[1]).sum() / moves[1].square().sum())
    need(abs(share - 1) <= 0.05, f"the parameters have moved {share:.3f} times as far as those of float32")


def an_outlier_harms_no_neighbor(subject: Subject) -> None:
    """Check that elements beside one with a gradient of 1e4 move at most twice as far as with float32.

    A second moment that its rule does not declare as `non_negative` can become 0 there, and the step infinite.
    """
    (dtype,) = subject.dtypes
    if subject.cls.rule.sums:  # the outlier is part of them
        return
    plain, moves = {key: value for key, value in subject.options.items() if key not in ROUNDED}, []
    for kind, options in ((dtype, subject.options), (torch.float32, plain)):
        param = torch.nn.Parameter(torch.zeros(200, dtype=kind))
        opt = subject.cls([param], lr=0.01, backend=subject.backend, **options)
        for step in range(20):
            param.grad = (normal(200, seed=1) + 0.5 * normal(200, seed=step + 2)).to(kind)
            param.grad[7] = 1e4 if step == 3 else 1.0
            opt.step()
        moves.append(torch.cat([param.detach()[:7], param.detach()[8:]]).abs().max().item())
    need(
        moves[0] <= 2 * moves[1],
        f"beside an outlier, an element moved by {moves[0]:.3g}, and with float32 by at most {moves[1]:.3g}; declare "
        "states that are never below 0 as non_negative in the rule",
    )
