"""Recipe for vision transformers."""

from collections.abc import Collection

from torch import nn

from fallline.arguments import check_integer
from fallline.optimizers import AdamW
from fallline.recipes.groups import parameter_groups
from fallline.recipes.recipe import Choice, Recipe, choose, in_steps, scale_rate
from fallline.schedules import WarmupCosine

_DEIT = "DeiT, Touvron et al. 2020, table 9"


def vision_transformer(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    betas: tuple[float, float] | None = None,
    warmup_steps: int | float | None = None,
    min_lr: float = 0.0,
    no_decay: Collection[str] = (),
    scale_lr: str | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Return a recipe for training vision transformers from scratch: AdamW with warm-up and cosine decay.

    The recipe is the set-up of DeiT (Touvron et al. 2020, arXiv:2012.12877, table 9) with the learning rate for batches
    of about 100 images. Small models on small data sets need a larger lr; search it with `fallline compare`.

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        total_steps: optimizer steps of the whole run, >= 1.
        lr: base learning rate; default 1e-4.
        weight_decay: weight decay of matrices and filters; default 0.05.
        betas: betas of AdamW; default (0.9, 0.999).
        warmup_steps: number of steps, or a float for a fraction of `total_steps`. The default is 5/300 of the run, but
            at least 5 % of the run or 2,000 steps, whichever is less.
        min_lr: learning rate at the last step.
        no_decay: exact names of further parameters without weight decay: ["cls_token", "pos_embed"] in DeiT.
        scale_lr: "sqrt" or "linear" scales lr from batch size 102 to `batch_size`.
        batch_size: images per step.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid; the message names it.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import vision_transformer
        >>> recipe = vision_transformer(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), 300, lr=3e-4)
        >>> print(str(recipe).splitlines()[1])
          lr            0.0003                      your argument
    """
    total_steps = check_integer("vision_transformer", "total_steps", total_steps, 1)
    usual = round(max(total_steps * 5 / 300, min(0.05 * total_steps, 2000)))  # Adam's second moments need the minimum
    lr, rates = scale_rate(choose(lr, 1e-4, "lr", f"{_DEIT}: 5e-4 at 512, so at 102"), batch_size, 102, scale_lr)
    weight_decay, decay = choose(weight_decay, 0.05, "weight_decay", _DEIT)
    betas, moments = choose(betas, (0.9, 0.999), "betas", f"{_DEIT}: the defaults of AdamW")
    warmup_steps, warm = choose(warmup_steps, usual, "warmup_steps", f"{_DEIT}: 5 of 300 epochs; 5 % of short runs")
    undecayed = Choice("undecayed", "biases, norms, 1-d, listed", "DeiT's code")
    warm = in_steps(warm, total_steps)
    optimizer = AdamW(parameter_groups(model, weight_decay, no_decay=no_decay), lr=lr, betas=betas)
    scheduler = WarmupCosine(optimizer, warmup_steps, total_steps, min_lr)
    return Recipe("vision_transformer", optimizer, scheduler, [*rates, decay, moments, warm, undecayed])
