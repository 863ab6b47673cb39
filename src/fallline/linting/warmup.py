"""Checks of the warm-up and of the averaging time of second moments."""

from fallline.linting.finding import Found, check
from fallline.linting.setup import Setup, is_cyclic

_MA = "Ma and Yarats 2021, arXiv:1910.04209: 2/(1 − beta2) steps of linear warm-up suffice for Adam"
NEAR = 0.999  # fraction of the peak that counts as the peak


def warmup_calls(setup: Setup) -> int | None:
    """Return the number of calls before the learning rate reaches its peak; None if it is not known."""
    if not setup.curve or setup.scheduler is None or setup.steps[0] > 0:
        return 0 if setup.scheduler is None else None
    peak = max(setup.curve)
    return next(k for k, lr in zip(setup.steps, setup.curve, strict=True) if lr >= NEAR * peak)


@check("warning", _MA, "The model has been trained before (from_scratch=False), or has its own warm-up.")
def short_warmup(setup: Setup) -> Found:
    """Find a training from scratch with Adam whose learning rate rises before its second moments have settled."""
    calls = warmup_calls(setup)
    if not setup.is_adam or setup.kind == "RAdam" or not setup.from_scratch:
        return
    if setup.total_steps is None or calls is None:
        return
    steps = calls // setup.calls_per_step * ((setup.steps_per_epoch or 1) if setup.per_epoch else 1)
    beta2 = max(float(group["betas"][1]) for group in setup.groups)
    wanted = min(2 / (1 - beta2), 0.05 * setup.total_steps)
    if steps < 0.9 * wanted - 1:
        yield (
            f"{'there is no warm-up' if not steps else f'the warm-up takes {steps} steps'}, but Adam's second moments "
            f"(beta2={beta2:g}) need {wanted:.0f} steps in a run of {setup.total_steps}: the first updates are as "
            "large as the learning rate allows, and the loss may spike",
            f"use fl.WarmupCosine(optimizer, warmup_steps={wanted:.0f}, total_steps={setup.total_steps})",
        )


@check(
    "warning",
    "Devlin et al. 2018, arXiv:1810.04805, A.2: 1 % of the steps; usual recipes take 1 to 5 %",
    "The schedule is designed as a cycle.",
)
def long_warmup(setup: Setup) -> Found:
    """Find a warm-up that takes more than a tenth of the run."""
    calls = warmup_calls(setup)
    if calls and setup.calls and not is_cyclic(setup.scheduler) and calls > 0.1 * setup.calls + 1:
        yield (
            f"the learning rate rises for {calls} of {setup.calls} {setup.unit}, {calls / setup.calls:.0%} of the run: "
            "over 10 % wastes compute",
            f"warm up for {max(round(0.05 * setup.calls), 1)}",
        )


@check("warning", "Adam's running mean covers 1/(1 − beta2) steps", "The gradients have little noise.")
def long_memory(setup: Setup) -> Found:
    """Find a beta2 whose averaging time is longer than the run."""
    if not setup.is_adam or setup.total_steps is None or not setup.from_scratch:
        return
    for name, group in setup.named_groups():
        beta2 = float(group["betas"][1])
        if (1 - beta2) * setup.total_steps < 0.999:
            yield (
                f"{name}: beta2={beta2:g} averages squared gradients over {1 / (1 - beta2):.0f} steps, longer than the "
                f"run of {setup.total_steps}: the denominator depends on the first gradients until the end",
                f"use beta2={1 - max(10 / setup.total_steps, 1e-3):.2g}",
            )
            return
