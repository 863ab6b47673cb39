"""SOAP: Adam in the eigenbasis of Shampoo's second moments, for weights that are matrices."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from fallline.arguments import check_integer
from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.errors import ArgumentError
from fallline.rules.eigenbases import (
    change_basis,
    from_basis,
    merged_shape,
    next_basis,
    power_iteration,
    reorder,
    second_moment,
    to_basis,
)
from fallline.rules.matrices import mean_square
from fallline.rules.ops import maximum, sqrt, where
from fallline.rules.ranges import FRACTION, POSITIVE, Range
from fallline.rules.rule import rule

DIMS = 4  # dimensions that can have a basis; those of a weight of a convolution in two dimensions


def basis_shapes(
    shape: Sequence[int], *, max_precond_dim: int, merge_dims: bool, precondition_1d: bool
) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the second moments and bases: square matrices, or None for a dimension without a basis.

    Example:
        >>> basis_shapes((64, 50_000), max_precond_dim=10_000, merge_dims=False, precondition_1d=False)["GG_0"]
        (64, 64)
    """
    merged = merged_shape(shape, max_precond_dim if merge_dims else 0)
    plain = len(shape) == 1 and not precondition_1d
    sides = {dim: length for dim, length in enumerate(merged) if length <= max_precond_dim and not plain}
    return {f"{key}_{dim}": (sides[dim],) * 2 if dim in sides else None for key in ("GG", "Q") for dim in range(DIMS)}


@rule(
    state={"exp_avg": None, "exp_avg_sq": None, **{f"{key}_{dim}": None for key in ("GG", "Q") for dim in range(DIMS)}},
    shapes=basis_shapes,
    ranges={"betas": FRACTION, "shampoo_beta": Range(0.0, 1.0, optional=True), "eps": POSITIVE},
    formula="L = β·L + (1 − β)·g·gᵀ;  R = β·R + (1 − β)·gᵀ·g;  Q_L, Q_R: their eigenvectors;  "
    "p −= lr·Q_L·Adam(Q_Lᵀ·g·Q_R)·Q_Rᵀ",
    source="Vyas et al. 2024, arXiv:2409.11321v2, algorithm 3, and https://github.com/nikhilvyas/SOAP at a1e5535",
    weight_decay_modes=("in_update", "decoupled", "independent", "l2"),
    whole=True,
)
def soap(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *moments_and_bases: Any,
    lr: Any,
    beta1: Any,
    beta2: Any,
    shampoo_beta: Any,
    eps: Any,
    weight_decay: Any,
    precondition_frequency: int,
    max_precond_dim: int,
    merge_dims: bool,
    normalize_grads: bool,
    correct_bias: bool,
    step: Any,
) -> tuple[Any, ...]:
    """Take Adam's step in coordinates in which the second moments of the gradient are nearly diagonal.

    State:   exp_avg: like param, starts at 0. Running mean of gradients, in the coordinates of the bases.
             exp_avg_sq: like param, starts at 0. Running mean of squared gradients in these coordinates.
             GG_0: second moment of dimension 0 (L in the paper), starts at 0. Running mean of G·Gᵀ, where G is the
             gradient with a row for each index of the dimension. GG_1 (R), GG_2 and GG_3 are those of the others.
             Q_0: eigenvectors of GG_0 in columns, approximate and by falling eigenvalues; Q_1, Q_2 and Q_3 likewise.
             A vector, a dimension longer than max_precond_dim and a fifth dimension have neither.
             step: number of gradients that this parameter has had, 1 in the first.
    Hyper:   lr: step length in param units, >= 0.  beta1, beta2: in [0, 1).  shampoo_beta: decay of the second moments,
             in [0, 1); None means beta2.  eps: gradient units, outside the root, > 0.  weight_decay: None unless the
             mode is "in_update".
    Follows: Vyas et al. 2024, arXiv:2409.11321v2, algorithm 3, in the form of the authors' code: the first gradient
             only starts the second moments and the bases, so that no gradient is projected to a basis made from it;
             after every precondition_frequency-th update, the bases make one power iteration and a QR decomposition.
             The bias of both means is corrected by their number of updates, step − 1, and eps is added to the root
             before the correction. The decay is that of the authors: it multiplies the new parameter, not the old.
    Differs: the bases are computed in the precision of the state, which is float64 for float64 parameters, and with
             state_dtype they keep it. The authors' code rounds them to float32, and divides by 10⁻³⁰ plus the root mean
             square with normalize_grads, as here. Dimensions of channels-last tensors are in PyTorch's order. Decay of
             the modes "decoupled" and "independent" also applies at the first gradient.
    """
    moments, bases = [*moments_and_bases[:DIMS]], [*moments_and_bases[DIMS:]]
    merge = max_precond_dim if merge_dims else 0
    sides = [dim for dim, basis in enumerate(bases) if basis is not None]
    started, age = where(step > 1, 1, 0), maximum(step - 1, 1)
    projected = grad
    for dim in sides:
        projected = to_basis(projected, bases[dim], dim, merge)
    averaged = beta1 * exp_avg + (1 - beta1) * started * projected
    averaged_sq = beta2 * exp_avg_sq + (1 - beta2) * started * (projected * projected)
    update = averaged / (sqrt(averaged_sq) + eps)
    for dim in sides:
        update = from_basis(update, bases[dim], dim, merge)
    if normalize_grads:
        update = update / (1e-30 + sqrt(mean_square(update)))
    rate = lr * sqrt(1 - beta2**age) / (1 - beta1**age) if correct_bias else lr
    new_param = param - started * rate * update
    if weight_decay is not None:
        new_param = new_param * (1 - started * lr * weight_decay)
    beta = beta2 if shampoo_beta is None else shampoo_beta
    exp_avg, exp_avg_sq = averaged, averaged_sq
    for dim in sides:
        moments[dim] = beta * moments[dim] + (1 - beta) * second_moment(grad, dim, merge)
        iteration = power_iteration(moments[dim], bases[dim], step, frequency=precondition_frequency)
        old, bases[dim] = bases[dim], next_basis(moments[dim], bases[dim], iteration)
        exp_avg = change_basis(exp_avg, old, bases[dim], dim, merge)
        exp_avg_sq = reorder(exp_avg_sq, iteration, dim, merge)
    return new_param, exp_avg, exp_avg_sq, *moments, *bases


class SOAP(Optimizer):
    """SOAP: Adam in the eigenbases of Shampoo's second moments of rows and columns.

    A weight of a×b elements keeps the second moments of its rows and columns, a×a and b×b numbers, and their
    eigenvectors. Adam runs in the coordinates that these define. The first step only starts the second moments and
    does not change the parameters.

    Use when: the batch is large, the weights are matrices of up to a few thousand rows and columns, and AdamW is tuned
        already. SOAP needs fewer steps than AdamW, and each costs six products of matrices and, every
        precondition_frequency steps, a QR decomposition. Start with the lr of AdamW, or with 3e-3, and with a warm-up.

    Args:
        params: parameters, named parameters, or groups of them.
        lr: learning rate, >= 0; a number or a one-element tensor.
        betas: decay of the running means of the gradient and of its square, each in [0, 1).
        shampoo_beta: decay of the running means of the second moments, in [0, 1); None means betas[1].
        eps: added to the denominator, outside the root, > 0.
        weight_decay: each step multiplies the new parameter by 1 − lr·weight_decay.
        precondition_frequency: number of steps between two updates of the bases, >= 1.
        max_precond_dim: a dimension that is longer, such as that of a vocabulary, has no basis.
        merge_dims: merge neighboring dimensions of a tensor while their product is at most max_precond_dim; for
            convolutions, with a max_precond_dim of one or two thousand.
        precondition_1d: give vectors a basis too.
        normalize_grads: divide each update by its root mean square; for precondition_frequency of about 100.
        correct_bias: False leaves out the bias correction of Adam.
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = fl.SOAP([w], lr=0.1, weight_decay=0.0)
        >>> for _ in range(2):
        ...     w.grad = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        ...     opt.step()
        >>> [round(x, 4) for x in w.flatten().tolist()]  # the eigenvectors are the axes: a step of Adam
        [0.9, 1.0, 1.0, 0.9]
    """

    rule = soap

    def __init__(
        self,
        params: Params,
        lr: Scalar = 3e-3,
        betas: tuple[Scalar, Scalar] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        merge_dims: bool = False,
        precondition_1d: bool = False,
        normalize_grads: bool = False,
        *,
        correct_bias: bool = True,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            shampoo_beta=shampoo_beta,
            eps=eps,
            weight_decay=weight_decay,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            merge_dims=merge_dims,
            precondition_1d=precondition_1d,
            normalize_grads=normalize_grads,
            correct_bias=correct_bias,
            **options,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        name, frequency, limit = type(self).__name__, group["precondition_frequency"], group["max_precond_dim"]
        if group.get("differentiable"):
            raise ArgumentError(
                f"{name}: differentiable must be False, because eigenvectors of equal eigenvalues have no derivative, "
                "got True; leave it out"
            )
        check_integer(name, "precondition_frequency", frequency, 1, "leave it out for 10")
        check_integer(name, "max_precond_dim", limit, 0, "leave it out for 10000")
