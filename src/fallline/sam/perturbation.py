"""Move the parameters of an optimizer along their gradients, and restore them bit-for-bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fallline.core.optimizer import Optimizer, Params
from fallline.sam.rule import sam

RHO, ADAPTIVE = "sam_rho", "sam_adaptive"  # options in the groups of the base; "rho" is already an option of Adadelta


class _Ascent(Optimizer):
    """Runs the rule like an optimizer, so that it works on every backend; its state holds the original parameters."""

    rule = sam

    def __init__(
        self, params: Params, lr: float = 0.0, rho: float = 0.0, adaptive: bool = False, *, backend: str = "auto"
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, adaptive=adaptive, backend=backend)

    def perturb(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Move the parameters of these groups; the step plan is reused if the groups have not changed."""
        self.param_groups = [{**self.defaults, "base_lr": 0.0, **group} for group in groups]
        with torch.no_grad():
            self._update()

    def restore(self) -> None:
        """Restore every parameter that the last call of `perturb` moved."""
        buckets = [] if self._plan is None else self._plan.buckets
        with torch.no_grad():
            for bucket in buckets:
                bucket.put_back("original")


_Ascent.__name__ = "SAM"  # the name in messages about gradients


class Perturbation:
    """The perturbation of SAM over the parameters of `base`, with the options of its groups.

    It uses an internal optimizer over the same parameters. This optimizer is hidden from the user: schedulers do not
    see it, its state is in no state dict, and it calls no hooks.
    """

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self._base = base
        self._ascent = _Ascent([{"params": []}])

    def apply(self) -> None:
        """Add the perturbation e to every parameter that has a gradient; in maximizing groups, subtract it."""
        base = self._base
        execution: tuple[str, ...] = ()
        if isinstance(base, Optimizer):  # use the backend of the base; the flags of torch optimizers may not fit ours
            self._ascent.backend, execution = base.backend, ("foreach", "fused")
        self._ascent.perturb(
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
        """Restore every parameter that `apply` moved."""
        self._ascent.restore()
