"""Checks of a running training."""

from dataclasses import dataclass, field
from functools import partial

from fallline.linting.finding import Check, Found, check
from fallline.loss_curves import spikes

EARLY = 500  # a spike before this step is attributed to a warm-up that is too short


@dataclass
class Record:
    """The losses and counts that `watch` records."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0
    checked: int = 0
    not_zeroed: int = 0
    clipped_scaled: int = 0
    with_clipping: int = 0
    clipped: int = 0


RUN_CHECKS: dict[str, Check] = {}
run_check = partial(check, into=RUN_CHECKS)


@run_check(
    "warning",
    "Ma and Yarats 2021, arXiv:1910.04209: a warm-up bounds Adam's first updates",
    "A batch is unusually hard, or the loss is noisy.",
)
def loss_spikes(record: Record) -> Found:
    """Find losses far above the previous ones."""
    if found := spikes(record.losses):
        early = found[0] < EARLY
        yield (
            f"the loss spikes {len(found)} time{'s' * (len(found) > 1)}, first at step {found[0]}, where it is "
            f"{record.losses[found[0]]:.3g}",
            "warm up for longer" if early else "use a lower learning rate, a lower beta2, or clip_grad_norm=1.0",
        )


@run_check("warning", "frequent clipping acts as a change of the learning rate", "Gradients are normalized on purpose.")
def clipped_often(record: Record) -> Found:
    """Find clipping on more than half of the steps."""
    if record.with_clipping >= 20 and record.clipped > record.with_clipping / 2:
        yield (
            f"the gradient was clipped in {record.clipped} of {record.with_clipping} steps, more than half: its norm "
            "has almost no effect on the updates",
            "raise clip_grad_norm above the usual norm (opt.grad_norm), or lower the learning rate explicitly",
        )


@run_check("error", "PyTorch adds to .grad until zero_grad clears it", "Old gradients are kept on purpose.")
def gradients_not_zeroed(record: Record) -> Found:
    """Find gradients that still contain those of the previous step."""
    if record.not_zeroed >= 3 and record.not_zeroed > 0.5 * record.checked:
        yield (
            f"in {record.not_zeroed} of {record.checked} steps the gradient still contained that of the previous step",
            "call optimizer.zero_grad() after each optimizer.step()",
        )


@run_check(
    "error", "PyTorch's automatic mixed precision examples: unscale_ before clipping", "The threshold is very small."
)
def clipped_before_unscale(record: Record) -> Found:
    """Find gradients that were clipped while they were still multiplied by the scale of the GradScaler."""
    if record.clipped_scaled >= 3 and record.clipped_scaled > 0.5 * record.checked:
        yield (
            f"in {record.clipped_scaled} of {record.checked} steps the gradient was reduced by about the scaler's "
            "factor: it was clipped before it was unscaled, so almost nothing of it was left",
            "call scaler.unscale_(optimizer) before clipping, or pass clip_grad_norm to the optimizer",
        )
