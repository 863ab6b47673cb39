"""Recipe for convolutional networks."""

from collections.abc import Collection

from torch import nn

from fallline.optimizers import SGD
from fallline.recipes.groups import parameter_groups
from fallline.recipes.recipe import Choice, Recipe, choose, in_steps, scale_rate
from fallline.schedules import WarmupCosine

_GOYAL = "Goyal et al. 2017, section 5.1"
_TRICKS = "He et al. 2018, sections 2 and 3"


def convnet(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    momentum: float | None = None,
    warmup_steps: int | float | None = None,
    min_lr: float = 0.0,
    no_decay: Collection[str] = (),
    scale_lr: str | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Return a recipe for convolutional networks: SGD with Nesterov momentum, warm-up and cosine decay.

    The recipe is the set-up of ResNet-50 on ImageNet (Goyal et al. 2017, arXiv:1706.02677, section 5.1), with the
    cosine schedule and without decay of normalization parameters as in He et al. 2018 (arXiv:1812.01187, sections 2
    and 3).

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        total_steps: optimizer steps of the whole run, >= 1.
        lr: base learning rate; default 0.1, for batches of 256.
        weight_decay: weight decay of filters and matrices; default 1e-4.
        momentum: Nesterov momentum; default 0.9.
        warmup_steps: number of steps, or a float for a fraction of `total_steps`; default 5 %.
        min_lr: learning rate at the last step.
        no_decay: exact names of further parameters without weight decay; see `parameter_groups`.
        scale_lr: "linear" or "sqrt" scales lr from batch size 256 to `batch_size`.
        batch_size: images per step.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid; the message names it.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import convnet
        >>> recipe = convnet(nn.Conv2d(3, 8, 3), total_steps=1000, scale_lr="linear", batch_size=1024)
        >>> recipe.optimizer.param_groups[0]["initial_lr"]
        0.4
    """
    lr, rates = scale_rate(choose(lr, 0.1, "lr", f"{_GOYAL}: at batch 256"), batch_size, 256, scale_lr)
    weight_decay, decay = choose(weight_decay, 1e-4, "weight_decay", _GOYAL)
    momentum, heavy = choose(momentum, 0.9, "momentum", f"{_GOYAL}: Nesterov's")
    warmup_steps, warm = choose(warmup_steps, 0.05, "warmup_steps", f"{_GOYAL}: 5 of 90 epochs")
    undecayed = Choice("undecayed", "biases, norms, 1-d", _TRICKS)
    groups = parameter_groups(model, weight_decay, no_decay=no_decay)
    warm = in_steps(warm, total_steps)
    optimizer = SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    scheduler = WarmupCosine(optimizer, warmup_steps, total_steps, min_lr)
    return Recipe("convnet", optimizer, scheduler, [*rates, decay, heavy, warm, undecayed])
