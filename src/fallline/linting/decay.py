"""Checks of weight decay."""

from typing import Any

from fallline.linting.finding import Found, check
from fallline.linting.setup import Setup
from fallline.wrappers import dimensions, hidden_parameters


@check(
    "error",
    "Loshchilov and Hutter 2019, arXiv:1711.05101, section 2",
    "A published result that used L2 regularization in Adam is reproduced.",
)
def coupled_decay(setup: Setup) -> Found:
    """Find L2 regularization in a variant of Adam, which divides it by the denominator."""
    for name, group in setup.named_groups():
        if (
            setup.kind in ("Adam", "NAdam", "RAdam", "Adamax", "AdEMAMix")
            and group.get("weight_decay", 0)
            and setup.mode(group) == "l2"
        ):
            yield (
                f"{name} ({setup.kind}) has weight_decay={group['weight_decay']:g} as L2 regularization, which is "
                "divided by the denominator, so parameters with large gradients are hardly decayed",
                "use AdamW",
            )


@check(
    "warning",
    "Loshchilov and Hutter 2019, arXiv:1711.05101, section 3: the strength of decoupled decay is lr·weight_decay",
    "The strength of the decay is changed on purpose.",
)
def lr_changed_without_decay(setup: Setup) -> Found:
    """Find a learning rate that differs from `previous` although the weight decay does not."""
    if setup.previous is None:
        return
    old_lr, old_decay = float(setup.previous["lr"]), float(setup.previous.get("weight_decay", 0))
    for name, group in setup.named_groups():
        lr, decay = (
            float(group["initial_lr"] if "initial_lr" in group else group["lr"]),
            float(group.get("weight_decay", 0)),
        )
        moved = max(lr, old_lr) > 1.5 * min(lr, old_lr)
        if decay and decay == old_decay and moved and setup.mode(group) == "decoupled":
            yield (
                f"{name}: lr changed from {old_lr:g} to {lr:g} and weight_decay is still {decay:g}, so the decay per "
                f"step, lr·weight_decay, changed from {old_lr * decay:.2g} to {lr * decay:.2g}",
                f'use weight_decay={decay * old_lr / lr:.2g} to keep it, or weight_decay_mode="independent"',
            )


@check(
    "warning",
    "Wang and Aitchison 2024, arXiv:2405.13698: the averaging time 1/(lr·weight_decay) should be near the run's length",
    "The decay has no effect on purpose, or follows a schedule.",
)
def decay_time_scale(setup: Setup) -> Found:
    """Find a weight decay that has no effect within the run, or that averages over only a small part of it."""
    if setup.total_steps is None or setup.curve is None or setup.steps[0] > 0 or not setup.from_scratch:
        return
    for name, group in setup.named_groups():
        strength = max(setup.curve) * float(group.get("weight_decay", 0))
        if not strength or setup.mode(group) != "decoupled":
            continue
        ratio = 1 / strength / setup.total_steps
        if not 0.01 <= ratio <= 10:
            yield (
                f"{name}: the time scale of weight decay, 1/(lr·weight_decay), is {1 / strength:.2g} steps, "
                f"{'over 10 times' if ratio > 1 else 'under 1 % of'} the {setup.total_steps} steps of the run: "
                + ("the decay has almost no effect" if ratio > 1 else "the weights depend on only a small part of it"),
                f"use weight_decay near {1 / (max(setup.curve) * setup.total_steps * 0.1):.1g}, or leave it out",
            )


@check(
    "info",
    "usual practice, e.g. He et al. 2018, arXiv:1812.01187, section 3.1",
    "The published recipe decays all parameters.",
)
def decayed_norms(setup: Setup) -> Found:
    """Find weight decay on biases and normalization parameters."""
    hidden = (
        hidden_parameters(setup.model).values() if setup.model is not None else ()
    )  # it is not known what they hold
    dims = dimensions(setup.model) if setup.model is not None else {}

    def is_small(param: Any) -> bool:
        dim = dims.get(id(param), param.dim())
        return dim <= 1 and param.requires_grad and not any(param is flat for flat in hidden)

    names = [(name, sum(map(is_small, g["params"]))) for name, g in setup.named_groups() if g.get("weight_decay")]
    if found := [f"{count} tensor{'s' * (count > 1)} of {name}" for name, count in names if count]:
        yield (
            f"weight decay is applied to biases, norms or other 1-d tensors ({', '.join(found)})",
            "use fl.recipes.parameter_groups(model, weight_decay)",
        )
