"""Moving the parameters of an optimizer along their gradients, and back to the bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fallline.core.optimizer import Optimizer, Params
from fallline.sam.rule import sam

RHO, ADAPTIVE = "sam_rho", "sam_adaptive"  # options of a group of the base; plain "rho" is Adadelta's


class _Ascent(Optimizer):
    """Runs the rule as an optimizer would, so that every backend serves it; its state is what it has moved."""

    rule = sam

    def __init__(
        self, params: Params, lr: float = 0.0, rho: float = 0.0, adaptive: bool = False, *, backend: str = "auto"
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, adaptive=adaptive, backend=backend)

    def climb(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Move the parameters of these groups; the plan of the last climb holds where they are the same."""
        self.param_groups = [{**self.defaults, "base_lr": 0.0, **group} for group in groups]
        with torch.no_grad():
            self._update()

    def restore(self) -> None:
        """Give every parameter that the last climb has moved its value of before."""
        buckets = [] if self._plan is None else self._plan.buckets
        with torch.no_grad():
            for bucket in buckets:
                bucket.put_back("original")


_Ascent.__name__ = "SAM"  # in what it says about gradients


class Perturbation:
    """The climb of SAM over the parameters of `base`, with the options of its groups.

    It has an optimizer of its own, over the same parameters, that nothing else may see: it is no optimizer to
    schedulers, its state is in no state dict, and no hook hears of it.
    """

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self._base = base
        self._ascent = _Ascent([{"params": []}])

    def apply(self) -> None:
        """Move every parameter that has a gradient by e; a maximizing group goes down instead."""
        base = self._base
        execution: tuple[str, ...] = ()
        if isinstance(base, Optimizer):  # run as the base runs; torch's flags may not suit our backends
            self._ascent.backend, execution = base.backend, ("foreach", "fused")
        self._ascent.climb(
            [
                {
                    "params": group["params"],
                    "rho": group.get(RHO, base.defaults[RHO]),
                    "adaptive": group.get(ADAPTIVE, base.defaults[ADAPTIVE]),
                    "maximize": group.get("maximize", False),
                    **{flag: group.get(flag) for flag in execution},
                }
                for group in base.param_groups
            ]
        )

    def undo(self) -> None:
        """Give every parameter that was moved its value of before."""
        self._ascent.restore()
