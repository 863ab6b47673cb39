"""Recipe for language models."""

from collections.abc import Collection

from torch import nn

from fallline.arguments import check_integer
from fallline.errors import ArgumentError, suggest
from fallline.optimizers import AdamW, Muon
from fallline.recipes.groups import parameter_groups
from fallline.recipes.recipe import YOURS, Choice, Recipe, choose, in_steps, scale_rate
from fallline.schedules import WarmupCosine

_LLAMA = "LLaMA, Touvron et al. 2023, section 2.2"
_OPTIMIZERS = ("adamw", "muon")


def language_model(
    model: nn.Module,
    total_steps: int,
    *,
    optimizer: str = "adamw",
    lr: float | None = None,
    weight_decay: float | None = None,
    betas: tuple[float, float] | None = None,
    clip_grad_norm: float | None = 1.0,
    warmup_steps: int | float | None = None,
    min_lr_ratio: float | None = None,
    decay_embeddings: bool = False,
    no_decay: Collection[str] = (),
    scale_lr: str | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """Return a recipe for language models: AdamW or Muon with gradient clipping, warm-up and cosine decay.

    The recipe is the set-up of LLaMA (Touvron et al. 2023, arXiv:2302.13971, section 2.2). Smaller models need a larger
    lr: in GPT-3 it falls from 6e-4 at 125 M parameters to 1e-4 at 13 B (arXiv:2005.14165, table 2.1).

    With optimizer="muon", Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) updates the matrices of
    hidden layers, and AdamW the other parameters. The updates of a matrix have the root mean square of AdamW's, so that
    the learning rate and weight decay of AdamW apply to both (Liu et al. 2025, arXiv:2502.16982, section 2.2).

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        total_steps: optimizer steps of the whole run, >= 1.
        optimizer: "adamw" or "muon".
        lr: base learning rate; default 3e-4.
        weight_decay: weight decay of matrices; default 0.1.
        betas: betas of AdamW, also beside Muon; default (0.9, 0.95).
        clip_grad_norm: maximum norm of the gradients; default 1.0.
        warmup_steps: number of steps, or a float for a fraction of `total_steps`; default 2,000, or 5 % of runs with
            fewer than 40,000 steps.
        min_lr_ratio: learning rate of the last step as a fraction of lr; default 0.1.
        decay_embeddings: whether `nn.Embedding` (and parameters tied to it) is decayed too.
        no_decay: exact names of further parameters without weight decay; see `parameter_groups`.
        scale_lr: "sqrt" or "linear" scales lr from 4 million tokens per step to `batch_size`.
        batch_size: tokens per step.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid; the message names it.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import language_model
        >>> optimizer, scheduler = language_model(nn.Linear(4, 4), total_steps=100_000)
        >>> scheduler.schedules["lr"][0]
        warmup_cosine(warmup_steps=2000, total_steps=100000, min_lr=0.0, min_lr_ratio=0.1)
    """
    if optimizer not in _OPTIMIZERS:
        raise ArgumentError(
            f"language_model: optimizer must be one of {', '.join(_OPTIMIZERS)}, got {optimizer=!r}; "
            + suggest(optimizer, _OPTIMIZERS, "construct others with fl.recipes.parameter_groups")
        )
    total_steps = check_integer("language_model", "total_steps", total_steps, 1)
    lr, rates = scale_rate(
        choose(lr, 3e-4, "lr", f"{_LLAMA}: 7 B and 13 B, 4 M tokens"), batch_size, 4_000_000, scale_lr
    )
    weight_decay, decay = choose(weight_decay, 0.1, "weight_decay", _LLAMA)
    betas, moments = choose(betas, (0.9, 0.95), "betas", _LLAMA)
    clip = Choice("clip_grad_norm", clip_grad_norm, _LLAMA if clip_grad_norm == 1.0 else YOURS)
    usual = 2000 if total_steps >= 40_000 else 0.05
    warmup_steps, warm = choose(warmup_steps, usual, "warmup_steps", f"{_LLAMA}: 2,000; at most 5 % of the run")
    min_lr_ratio, end = choose(min_lr_ratio, 0.1, "min_lr_ratio", _LLAMA)
    undecayed = Choice("undecayed", "biases, norms, 1-d" + ", embeddings" * (not decay_embeddings), "usual practice")
    groups = parameter_groups(model, weight_decay, decay_embeddings=decay_embeddings, no_decay=no_decay)
    warm = in_steps(warm, total_steps)
    built: AdamW | Muon = AdamW(groups, lr=lr, betas=betas, clip_grad_norm=clip_grad_norm)
    matrices: list[Choice] = []
    if optimizer == "muon":
        matrices = [
            Choice("momentum", 0.95, "Jordan et al. 2024"),
            Choice("adjust_lr_fn", "match_rms_adamw", "Liu et al. 2025, section 2.2: takes lr and decay of AdamW"),
        ]
        own = {choice.name: choice.value for choice in matrices}
        built = Muon(groups, lr, adamw_lr=lr, adamw_betas=betas, model=model, clip_grad_norm=clip_grad_norm, **own)
    scheduler = WarmupCosine(built, warmup_steps, total_steps, min_lr_ratio=min_lr_ratio)
    return Recipe(
        "language_model",
        built,
        scheduler,
        [*rates, decay, moments, *matrices, clip, warm, end, undecayed],
    )
