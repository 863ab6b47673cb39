"""Parameters that share memory: the same one listed twice, or two tensors on one storage."""

from collections.abc import Sequence

import torch

from fallline.backends.layout import PLAIN
from fallline.dtensor import is_sharded


def turns_of(params: Sequence[torch.Tensor]) -> list[int]:
    """Return for each parameter a turn, so that parameters of one turn do not share memory.

    A backend updates the parameters of a bucket together, so a parameter that is listed twice, or two parameters on one
    memory, would lose updates there. They take turns, in which the buckets are updated one after the other.
    """
    spans = [_span(param) for param in params]
    ordered = sorted((*span, index) for index, span in enumerate(spans) if span is not None)
    turns, end = [0] * len(params), 0
    members: list[int] = []
    for start, stop, index in ordered:
        if start >= end:
            members = []
        end = max(end, stop)
        members.append(index)
        if len(members) > 1:
            for turn, member in enumerate(sorted(members)):
                turns[member] = turn
    return turns


def _span(param: torch.Tensor) -> tuple[int, int] | None:
    """Return the first and the last address of a parameter that has memory of its own."""
    if is_sharded(param) or type(param) not in PLAIN or param.layout is not torch.strided or param.numel() == 0:
        return None
    last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    start = param.data_ptr()
    return start, start + (last + 1) * param.element_size()
