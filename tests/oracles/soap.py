"""SOAP: Vyas et al. 2024, arXiv:2409.11321, algorithm 3, in the form of the authors' code, for tensors of any shape.

For each dimension k of a gradient G, unfolded to a matrix G_k with a row for each index of k,

    GG_k = running mean of G_k G_k^T,     Q_k = its eigenvectors, by falling eigenvalues

The first gradient only starts GG_k and Q_k. Each later one is projected to the old bases, takes Adam's step there, and
is projected back; then GG_k moves, and after every `precondition_frequency` updates, Q_k becomes the orthogonal factor
of GG_k Q_k, its columns sorted by the diagonal of Q_k^T GG_k Q_k. The running mean of the gradient turns with the
bases, and that of its square has its entries sorted alike. Weight decay multiplies the new parameter.

Eigenvectors have arbitrary signs, and with them what is kept in their coordinates; see `comparable`.
"""

import math

import numpy as np

from oracles.formula import bias_correction, decayed
from oracles.problem import Array, Case, ramp, zero_first

LR = 3e-3
# Relative, of any element in float64: LAPACK computes eigenvectors of small eigenvalues to fewer digits than Jacobi's
# method. Measured 8.5e-13.
FLOAT64 = 1e-11
# Relative, of parameters after 60 steps in float32: eigenvectors of small eigenvalues are known to fewer digits.
# Measured 1.0e-4, and with normalize_grads 4.1e-4.
FLOAT32 = 1e-3


def update(
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    *,
    betas: tuple[float, float] = (0.95, 0.95),
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    correct_bias: bool = True,
    maximize: bool = False,
    weight_decay_mode: str = "in_update",
) -> Array:
    """Return the parameter after one step; `state` is updated in place."""
    beta1, beta2 = betas
    g = -g if maximize else g
    if weight_decay_mode != "in_update":
        p, g = decayed(p, g, weight_decay_mode, weight_decay, lr, lr0)
    shape = p.shape
    if merge_dims:
        g = g.reshape(_merged(shape, max_precond_dim))
    plain = len(shape) == 1 and not precondition_1d
    sides = [k for k, size in enumerate(g.shape) if size <= max_precond_dim and not plain]
    t = state["step"] = np.asarray(state.get("step", np.zeros(())) + 1)
    zero = np.zeros_like(g)
    m, v = (state.get(key, zero).reshape(g.shape) for key in ("exp_avg", "exp_avg_sq"))
    new = p
    if t > 1:
        projected = g
        for k in sides:
            projected = _along(state[f"Q_{k}"].T, projected, k)
        m, v = beta1 * m + (1 - beta1) * projected, beta2 * v + (1 - beta2) * projected * projected
        u = m / (np.sqrt(v) + eps)
        for k in sides:
            u = _along(state[f"Q_{k}"], u, k)
        if normalize_grads:
            u = u / (1e-30 + math.sqrt(math.fsum(np.ravel(u) ** 2) / u.size))
        rate = lr
        if correct_bias:
            rate = lr * math.sqrt(bias_correction(beta2, float(t) - 1)) / bias_correction(beta1, float(t) - 1)
        new = p - rate * u.reshape(shape)
        if weight_decay_mode == "in_update":
            new = new * (1 - lr * weight_decay)
    beta = beta2 if shampoo_beta is None else shampoo_beta
    for k in sides:
        rows = np.moveaxis(g, k, 0).reshape(g.shape[k], -1)
        moment = beta * state.get(f"GG_{k}", np.zeros(2 * (g.shape[k],))) + (1 - beta) * _product(rows, rows.T)
        state[f"GG_{k}"] = moment
        if t == 1:
            state[f"Q_{k}"] = _eigenvectors(moment)
        elif (t - 1) % precondition_frequency == 0:
            old = state[f"Q_{k}"]
            image = _product(moment, old)
            order = np.argsort(-np.array([math.fsum(a * b) for a, b in zip(old.T, image.T, strict=True)]))
            basis = state[f"Q_{k}"] = _orthogonalized(image[:, order])
            m = _along(_product(basis.T, old), m, k)
            v = np.take(v, order, axis=k)
    state["exp_avg"], state["exp_avg_sq"] = m.reshape(shape), v.reshape(shape)
    return new


def comparable(state: dict[str, Array]) -> dict[str, Array]:
    """Return what of a state does not depend on signs of eigenvectors, nor on rounding if eigenvalues are close."""
    turned = any(key.startswith("Q_") for key in state)
    return {key: value for key, value in state.items() if key[0] != "Q" and not (turned and "exp_avg" in key)}


def _merged(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Return the authors' merged shape."""
    found, size = [], 1
    for length in shape:
        if size * length <= limit:
            size *= length
        elif size > 1:
            found, size = [*found, size], length
        else:
            found, size = [*found, length], 1
    return tuple([*found, size] if size > 1 or not found else found)


def _along(matrix: Array, x: Array, k: int) -> Array:
    """Return the product of a matrix with every vector along a dimension."""
    moved = np.moveaxis(x, k, 0)
    return np.moveaxis(_product(matrix, moved.reshape(x.shape[k], -1)).reshape(moved.shape), 0, k)


def _product(a: Array, b: Array) -> Array:
    """Return the product of two matrices; BLAS would sum in another order on another machine."""
    return np.array([[math.fsum(row * column) for column in b.T] for row in a])


def _eigenvectors(a: Array) -> Array:
    """Return the eigenvectors by Jacobi's method, which needs no library and is exact for small eigenvalues too."""
    n, largest = len(a), np.abs(a).max()
    a, q = a.copy(), np.eye(n)
    for _ in range(30):
        for i in range(n):
            for j in range(i + 1, n):
                if abs(a[i, j]) <= max(1e-17 * math.sqrt(abs(a[i, i] * a[j, j])), 1e-30 * largest):
                    continue
                theta = (a[j, j] - a[i, i]) / (2 * a[i, j])
                t = math.copysign(1.0, theta) / (abs(theta) + math.hypot(theta, 1.0))
                c = 1 / math.hypot(t, 1.0)
                for rows in (a, a.T, q):  # views: of both sides of the matrix, and of what becomes the eigenvectors
                    one, other = rows[:, i].copy(), rows[:, j].copy()
                    rows[:, i], rows[:, j] = c * one - t * c * other, t * c * one + c * other
    return q[:, np.argsort(-np.diag(a))]


def _orthogonalized(a: Array) -> Array:
    """Return the orthogonal factor of a QR decomposition by the method of Gram and Schmidt, each column done twice."""
    columns: list[Array] = []
    for column in a.T:
        for start in (column, *np.eye(len(a))):  # without full rank, any vectors that complete the basis
            rest = start
            for other in columns * 2:
                rest = rest - math.fsum(rest * other) * other
            if _norm(rest) > 1e-10 * _norm(start):
                break
        columns.append(rest / _norm(rest))
    return np.array(columns).T


def _norm(x: Array) -> float:
    return math.sqrt(math.fsum(x * x))


_OFTEN = {"lr": 0.01, "precondition_frequency": 2}
CASES = [
    Case("soap_default", "SOAP", {"lr": 0.01}),
    Case("soap_often", "SOAP", _OFTEN),
    Case("soap_betas_eps", "SOAP", _OFTEN | {"betas": (0.8, 0.9), "eps": 1e-2}),
    Case("soap_shampoo_beta", "SOAP", _OFTEN | {"shampoo_beta": 0.5}),
    Case("soap_one_sided", "SOAP", _OFTEN | {"max_precond_dim": 3}),
    Case("soap_merged", "SOAP", _OFTEN | {"merge_dims": True, "max_precond_dim": 4}),
    Case("soap_normalized", "SOAP", _OFTEN | {"lr": 0.004, "normalize_grads": True}),
    Case("soap_biased", "SOAP", _OFTEN | {"correct_bias": False}),
    Case("soap_weight_decay", "SOAP", _OFTEN | {"weight_decay": 1.0}),
    Case("soap_decoupled", "SOAP", _OFTEN | {"weight_decay": 1.0, "weight_decay_mode": "decoupled"}),
    Case("soap_l2", "SOAP", _OFTEN | {"weight_decay": 0.1, "weight_decay_mode": "l2"}),
    Case(
        "soap_independent",
        "SOAP",
        _OFTEN | {"weight_decay": 0.1, "weight_decay_mode": "independent"},
        lrs=ramp(0.01),
    ),
    Case("soap_maximize", "SOAP", _OFTEN | {"maximize": True, "weight_decay": 1.0}),
    Case("soap_late", "SOAP", _OFTEN, late=True),
    Case("soap_zero_lr", "SOAP", _OFTEN, lrs=zero_first(0.01)),
]
