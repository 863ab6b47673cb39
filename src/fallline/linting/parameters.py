"""Checks that compare the parameters of the optimizer with those of the model."""

from collections.abc import Iterable

from fallline.linting.finding import Found, check
from fallline.linting.setup import Setup
from fallline.wrappers import named_parameters

_TORCH = "an optimizer updates only the parameters that were passed to it"


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """Return the first three names, and how many more there are."""
    found = list(names)
    return separator.join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


@check("error", _TORCH, "Another optimizer trains the parameters.")
def missing_parameters(setup: Setup) -> Found:
    """Find trainable parameters of the model that are missing from the optimizer."""
    if setup.model is None:
        return
    held = {id(p) for group in setup.groups for p in group["params"]}
    names = {id(p): name for name, p in setup.model.named_parameters()}
    names |= {id(p): name for name, p, _ in named_parameters(setup.model)}  # without the prefixes of wrappers
    missing = [names[id(p)] for p in setup.model.parameters() if p.requires_grad and id(p) not in held]
    if missing:
        yield f"{len(missing)} trainable parameters are not in the optimizer: {listed(missing)}", "add or freeze them"


@check("error", _TORCH, "The optimizer trains several models.")
def stale_parameters(setup: Setup) -> Found:
    """Find parameters in the optimizer that the model no longer has: it was copied, or a layer was replaced."""
    if setup.model is None:
        return
    known = {id(p) for p in setup.model.parameters()}
    for name, group in setup.named_groups():
        if count := sum(id(p) not in known for p in group["params"]):
            yield (
                f"{name} holds {count} tensors that are not parameters of the model (it was copied, or a layer was "
                "replaced, after the optimizer was created): updating them does not change the model",
                "create the optimizer last",
            )


@check(
    "warning",
    "Defazio et al. 2024, arXiv:2405.15682: gradients are computed at y, and the model is evaluated at the average x",
    "The model is in eval mode during the training, or is switched to train mode before the next step.",
)
def evaluated_in_train_mode(setup: Setup) -> Found:
    """Find a model in eval mode whose parameters are the training weights of a schedule-free optimizer."""
    averages = [group for group in setup.groups if "weight_lr_power" in group and "train_mode" in group]
    if setup.model is None or setup.model.training or getattr(setup.updater, "_averaged", False):
        return
    stepped = any(setup.updater.state.get(param) for group in averages for param in group["params"])
    if stepped and all(group["train_mode"] for group in averages):
        yield (
            f"the model is in eval mode and {setup.kind} in train mode: the parameters are where gradients are "
            "computed, and not the average of the iterates, which is to be evaluated and saved",
            "call optimizer.eval() next to model.eval(), or evaluate inside of `with optimizer.averaged():`",
        )


@check("warning", _TORCH, "The parameters are unfrozen later.")
def frozen_parameters(setup: Setup) -> Found:
    """Find frozen parameters in the optimizer."""
    for name, group in setup.named_groups():
        if count := sum(not p.requires_grad for p in group["params"]):
            yield f"{name} holds {count} frozen tensors, which do not receive gradients", "leave them out"


@check("error", "a parameter that is listed twice is updated twice", "No case is known.")
def duplicate_parameters(setup: Setup) -> Found:
    """Find parameters that are in the optimizer more than once."""
    every = [id(p) for group in setup.groups for p in group["params"]]
    if double := len(every) - len(set(every)):
        yield (
            f"{double} parameters are in the optimizer more than once, and are updated more than once per step",
            "pass each parameter once",
        )
