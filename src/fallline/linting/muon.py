"""Checks of Muon, which is for the matrices of hidden layers and whose updates do not depend on the gradient's size."""

from fallline.linting.finding import Found, check
from fallline.linting.parameters import listed
from fallline.linting.setup import Setup
from fallline.routing import EMBEDDING, HEAD, Router
from fallline.wrappers import hidden_parameters, named_parameters

_JORDAN = "Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/"


@check(
    "warning",
    f"{_JORDAN}: embeddings and the output layer should be optimized by AdamW",
    "The layer is a hidden one, or the two are compared on purpose.",
)
def muon_on_embedding_or_head(setup: Setup) -> Found:
    """Find embeddings and output layers that Muon updates."""
    if setup.model is None or not setup.muon_groups or hidden_parameters(setup.model):
        return
    router = Router("lint", setup.model)
    names = {id(param): name for name, param, _ in reversed([*named_parameters(setup.model)])}
    wrong = []
    for group in setup.muon_groups:
        for param in group["params"]:
            reason = router.decide(names[id(param)], param).reason if id(param) in names else ""
            if reason.startswith((EMBEDDING, HEAD)):
                wrong.append(f"{names[id(param)]}, {reason}")
    if wrong:
        yield (
            f"Muon updates {listed(wrong, '; ')}: it orthogonalizes its updates, which suits the matrices of hidden "
            "layers",
            "leave them to AdamW, as fl.Muon(model) does without route and algorithm",
        )


@check(
    "info",
    f"{_JORDAN}: the update is the momentum with all its singular values set to about 1",
    "Large gradients are to count less in the momentum.",
)
def clipping_under_muon(setup: Setup) -> Found:
    """Find clipping by norm in an optimizer whose updates all come from Muon and have a fixed size."""
    groups = [group for group in setup.groups if group["params"]]
    limits = [group["clip_grad_norm"] for group in groups if group.get("clip_grad_norm") is not None]
    if not limits or len(setup.muon_groups) < len(groups):  # it changes the updates of AdamW
        return
    if any(group.get("weight_decay") and setup.mode(group) == "l2" for group in groups):
        return  # the penalty is added to the clipped gradient
    averages = any(group["momentum"] for group in groups)
    yield (
        f"clip_grad_norm={limits[0]:g} does not limit the updates, because Muon gives them the same size for any size "
        "of the gradient; it "
        + ("only reduces the weight of large gradients in the momentum" if averages else "has no effect at momentum 0"),
        "leave clip_grad_norm out, and lower the learning rate if the loss spikes",
    )
