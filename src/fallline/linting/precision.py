"""Checks of the precision of parameters."""

import torch

from fallline.linting.finding import Found, check
from fallline.linting.setup import Setup

HALF_ULP = 2.0**-9  # relative size of half an ulp in bfloat16, at the upper end of a binade


@check(
    "warning",
    "Zamirai et al. 2020, arXiv:2010.06192: rounding to nearest cancels small updates of bfloat16 weights",
    "Float32 copies of the weights are kept outside of this optimizer.",
)
def lost_updates(setup: Setup) -> Found:
    """Find bfloat16 weights whose updates are below half an ulp."""
    for name, group in setup.named_groups():
        low = [p for p in group["params"] if p.dtype == torch.bfloat16 and p.requires_grad and p.numel()]
        exact = group.get("stochastic_rounding") or group.get("master_weights")
        if not low or exact or not (setup.is_adam or setup.kind in ("Lion", "Adan")):
            continue
        lr = max(setup.curve or [float(group["lr"])])
        sizes = [p.detach().float().pow(2).mean().sqrt().item() for p in low]
        lost = sum(lr < HALF_ULP * size for size in sizes)
        if lost > len(low) / 2:
            yield (
                f"{name}: updates of about lr={lr:g} are below half an ulp in {lost} of {len(low)} bfloat16 tensors "
                f"(typical weight {sorted(sizes)[len(sizes) // 2]:.2g}), so rounding to nearest discards them",
                "pass master_weights=True or stochastic_rounding=True, or keep float32 weights under autocast",
            )
