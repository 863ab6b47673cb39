"""Recipe for fine-tuning pretrained transformers."""

from collections.abc import Collection, Sequence

from torch import nn

from fallline.optimizers import AdamW
from fallline.recipes.groups import layer_groups, parameter_groups
from fallline.recipes.recipe import Choice, Recipe, choose, in_steps
from fallline.schedules import Linear

_BERT = "BERT, Devlin et al. 2018, appendix A.3"


def fine_tuning(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    betas: tuple[float, float] | None = None,
    warmup_steps: int | float | None = None,
    layer_decay: float | None = None,
    blocks: Sequence[nn.Module] | None = None,
    decay_embeddings: bool = False,
    no_decay: Collection[str] = (),
) -> Recipe:
    """Return a recipe for fine-tuning: AdamW with warm-up, linear decay and layer-wise learning rates.

    The recipe is the set-up of BERT (Devlin et al. 2018, arXiv:1810.04805, appendix A.3) with the layer-wise learning
    rate decay of ELECTRA (Clark et al. 2020, arXiv:2003.10555, table 7): the rates fall from the last layer to the
    first. The schedule keeps the ratios between layers.

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        total_steps: optimizer steps of the whole run, >= 1.
        lr: learning rate of the last layer; default 5e-5.
        weight_decay: weight decay of matrices; default 0.01.
        betas: betas of AdamW; default (0.9, 0.999).
        warmup_steps: number of steps, or a float for a fraction of `total_steps`; default 10 %.
        layer_decay: factor of the learning rate per layer; default 0.8; 1.0 gives all layers the same rate.
        blocks: the layers from input to output; detected by default, see `layer_groups`.
        decay_embeddings: whether `nn.Embedding` is decayed too.
        no_decay: exact names of further parameters without weight decay; see `parameter_groups`.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is invalid; the message names it.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import fine_tuning
        >>> model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(3)])
        >>> optimizer, scheduler = fine_tuning(model, total_steps=100, lr=1e-4, layer_decay=0.5)
        >>> [group["initial_lr"] for group in optimizer.param_groups]
        [1.25e-05, 2.5e-05, 5e-05]
    """
    lr, rate = choose(lr, 5e-5, "lr", f"{_BERT}: the largest of 2e-5 to 5e-5")
    weight_decay, decay = choose(weight_decay, 0.01, "weight_decay", f"{_BERT}, A.2")
    betas, moments = choose(betas, (0.9, 0.999), "betas", f"{_BERT}, A.2")
    warmup_steps, warm = choose(warmup_steps, 0.1, "warmup_steps", "BERT's code: warmup_proportion")
    layer_decay, fall = choose(layer_decay, 0.8, "layer_decay", "ELECTRA, Clark et al. 2020, table 7")
    undecayed = Choice("undecayed", "biases, norms, 1-d" + ", embeddings" * (not decay_embeddings), "BERT's code")
    if layer_decay == 1:  # no blocks are needed, so this works for any model
        groups = parameter_groups(model, weight_decay, decay_embeddings=decay_embeddings, no_decay=no_decay)
    else:
        groups = layer_groups(
            model,
            lr,
            weight_decay,
            layer_decay,
            blocks=blocks,
            decay_embeddings=decay_embeddings,
            no_decay=no_decay,
        )
    warm = in_steps(warm, total_steps)
    optimizer = AdamW(groups, lr=lr, betas=betas)
    scheduler = Linear(optimizer, total_steps, warmup_steps=warmup_steps)
    return Recipe("fine_tuning", optimizer, scheduler, [rate, decay, moments, warm, fall, undecayed])
