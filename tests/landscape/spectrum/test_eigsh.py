"""Eigenvalues against LAPACK's: within their bounds, none twice, and honest about what was missed."""

import math

import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.landscape import Dense, eigsh
from fallline.landscape.operators.base import Meter
from fallline.landscape.spectrum.lanczos import Lanczos
from support.landscapes import spectrum

N = 200
GENERATOR = torch.Generator().manual_seed(0)
BULK = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
NORMAL = torch.randn(N, generator=GENERATOR, dtype=torch.float64)


def with_bulk(*outliers, bulk=BULK):
    return torch.cat([torch.tensor(outliers, dtype=torch.float64), bulk[len(outliers) :]])


SPECTRA = {
    "outliers and bulk": with_bulk(50.0, 30, 20, 15),
    "negative outliers": with_bulk(-50.0, -30, -20, 15),
    "rank 2": torch.tensor([5.0, -3.0] + [0.0] * (N - 2)),
    "identity": torch.ones(N),
    "zero": torch.zeros(N),
    "plus and minus": torch.tensor([2.0, -2.0] * (N // 2)),
    "triple": with_bulk(5.0, 5, 5),
    "two triples": with_bulk(5.0, 5, 5, -5, -5, -5),
    "nearly triple": with_bulk(5.0, 5 - 1e-7, 5 - 2e-7),
    "tiny": 1e-8 * with_bulk(50.0, 30, 20),
    "minute triple": 1e-31 * with_bulk(5.0, 5, 5),
    "huge": 1e8 * with_bulk(50.0, 30, 20),
    "bulk alone": BULK,
    "normal": NORMAL,
    "decaying": torch.arange(1, N + 1).double() ** -1.5,
    "exponential": torch.exp(-0.3 * torch.arange(N).double()),
    "even": torch.linspace(-1, 1, N, dtype=torch.float64),
    "ill-conditioned": torch.logspace(-12, 0, N, dtype=torch.float64),
    "saddle": torch.cat([NORMAL.abs()[: N - 5], torch.tensor([-0.5, -0.5, -0.2, -0.1, -3.0]).double()]),
    "shifted": 1000 + BULK,
    "half zero": torch.cat([torch.zeros(N // 2).double(), BULK[: N // 2]]),
    "two clusters": torch.cat([1 + 1e-9 * BULK[: N // 2], 2 + 1e-9 * BULK[: N // 2]]),
}
REQUESTS = [("LA", 1), ("LA", 3), ("SA", 2), ("LM", 3), ("BE", 4)]


def wanted(values, which, k):
    """The k eigenvalues that are asked for, ascending."""
    values = values.sort().values
    if which == "LM":
        return values[values.abs().argsort(descending=True)[:k]].sort().values
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    return torch.cat([values[:low], values[len(values) - (k - low) :]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_value_is_within_its_bound_and_none_is_missing(name, dtype):
    matrix = spectrum(SPECTRA[name], dtype=dtype)
    true = torch.linalg.eigvalsh(matrix.double())
    own = 10 * torch.finfo(torch.float64).eps * true.abs().max()  # of LAPACK
    for which, k in REQUESTS:
        found = eigsh(matrix, k, which, seed=1)
        distance = (found.values[:, None] - true).abs().min(1).values
        assert (distance <= found.bound + own).all()
        assert found.converged
        assert found.vectors.dtype == dtype and found.values.dtype == torch.float64
        # No value twice that is there once, and none left out. The k-th may be one that is `resolution` from it.
        right = wanted(true, which, k)
        values = found.values.sort().values
        if which == "LM":  # of ±2 either is right
            right, values = right.abs().sort().values, values.abs().sort().values
        assert ((values - right).abs() <= found.resolution + own).all()
        overlap = found.vectors.double().T @ found.vectors.double() - torch.eye(k)
        assert overlap.abs().max() < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("identity", [True] * 12),
        ("rank 2", [False, False] + [True] * 10),  # then vectors of the null space, each a chain of its own
        ("plus and minus", [False, True] * 6),
        ("zero", [True] * 12),
    ],
)
def test_a_chain_ends_when_it_has_seen_its_space(name, breaks, scale, dtype):
    """A vector has a part in each eigenspace, so many products exhaust it; whatever the unit of the curvature."""
    matrix = spectrum(scale * SPECTRA[name].double(), dtype=dtype)
    basis = Lanczos(Meter(Dense(matrix), 12, 12, None), 12, torch.Generator().manual_seed(0))
    for _ in range(12):
        basis.step()
    assert basis.breaks == breaks
    own = torch.linalg.eigvalsh(matrix.double())
    far = (basis.ritz()[0][:, None] - own).abs().min(1).values.max()
    assert far <= 100 * torch.finfo(dtype).eps * max(own.abs().max().item(), 1e-300)
    overlap = basis.basis.double().T @ basis.basis.double() - torch.eye(12)
    assert overlap.abs().max() < 100 * torch.finfo(dtype).eps


def test_what_is_small_but_no_rounding_does_not_end_a_chain():
    """Eigenvalues of 1 and 1 + 1e-9: the second direction is worth 1e-9 of the first, a million times the rounding."""
    basis = Lanczos(
        Meter(Dense(torch.diag(torch.tensor([1.0, 1 + 1e-9] * 20, dtype=torch.float64))), 3, 3, None),
        3,
        torch.Generator().manual_seed(0),
    )
    basis.step()
    assert basis.breaks == [False] and 0 < basis.beta < 1e-9
    basis.step()
    assert basis.breaks == [False, True]


def test_a_tighter_tolerance_is_a_tighter_bound():
    matrix = spectrum(SPECTRA["outliers and bulk"])
    true = torch.linalg.eigvalsh(matrix)
    found = eigsh(matrix, 3, tol=1e-9)
    assert found.bound.max() < 1e-7
    assert (found.values - true.flip(0)[:3]).abs().max() < 1e-12


def test_the_order_of_values():
    matrix = torch.diag(torch.tensor([3.0, -4.0, 1.0, 2.0, 0.5]))
    assert eigsh(matrix, 3, "LA").values.tolist() == pytest.approx([3, 2, 1], abs=1e-4)
    assert eigsh(matrix, 2, "SA").values.tolist() == pytest.approx([-4, 0.5], abs=1e-4)
    assert eigsh(matrix, 2, "LM").values.tolist() == pytest.approx([-4, 3], abs=1e-4)
    assert eigsh(matrix, 3, "BE").values.tolist() == pytest.approx([-4, 2, 3], abs=1e-4)
    assert eigsh(matrix, 5, "SA").values.tolist() == pytest.approx([-4, 0.5, 1, 2, 3], abs=1e-4)


def missed(found, true, k):
    """Whether an eigenvalue is farther beyond the last found than the result says that it can tell."""
    return true[-k].item() > found.values.min().item() + found.resolution + 1e-12 * true.abs().max().item()


@pytest.mark.slow
def test_a_thousand_random_spectra_are_told_honestly():
    """Many with multiple eigenvalues; misses are at most as frequent as the results said."""
    generator = torch.Generator().manual_seed(1)
    converged, misses, said = 0, 0, 0.0
    for seed in range(1000):
        n = int(torch.randint(20, 80, (), generator=generator))
        values = torch.randn(n, generator=generator, dtype=torch.float64)
        if seed % 2:
            values = values.exp()
        if seed % 3:
            copies = int(torch.randint(2, 5, (), generator=generator))
            values[:copies] = values.max() + (1 if seed % 5 else 0.01)
        k = int(torch.randint(1, 5, (), generator=generator))
        # `values` on the diagonal, behind a random rotation of the start, would be the same to Lanczos.
        found = eigsh(torch.diag(values), k, seed=seed)
        true = values.sort().values
        distance = (found.values[:, None] - true).abs().min(1).values
        assert (distance <= found.bound).all()
        if found.converged:
            converged += 1
            misses += missed(found, true, k)
            said += found.miss_probability
    assert converged > 950
    assert misses <= said + 3 * math.sqrt(said)


def test_memory_is_kept_to_and_said_before_the_first_product():
    matrix = spectrum(BULK)
    steps = []
    memory = (12 + 2) * N * 8  # 12 vectors, and one to give and one in exchange
    found = eigsh(matrix, 1, tol=1e-2, memory=memory, progress=steps.append, max_matvecs=2000)
    assert steps[0].done == 0 and steps[0].bytes == memory
    assert [step.done for step in steps] == list(range(found.matvecs + 1))
    assert steps[-1].seconds >= 0 and "products" in str(steps[-1])
    assert abs(found.values[0].item() - BULK.max().item()) < 1e-2
    assert not found.converged and found.miss_probability > 0.1  # 12 vectors are too few to look for another
    assert found.residuals[0] < 1e-2
    with pytest.raises(ArgumentError, match=rf"memory must be at least {6 * N * 8} bytes for k=1 and n={N}"):
        eigsh(matrix, 1, memory=5 * N * 8)


def test_a_thick_restart_converges():
    matrix = spectrum(SPECTRA["decaying"])
    found = eigsh(matrix, 2, tol=1e-8, memory=(10 + 4) * N * 8, max_matvecs=400)
    assert (found.values - torch.tensor([1.0, 2.0**-1.5], dtype=torch.float64)).abs().max() < 1e-10
    assert found.residuals.max() < 1e-8


def test_a_warm_start_saves_products():
    matrix = spectrum(SPECTRA["decaying"])
    cold = eigsh(matrix, 2, tol=1e-4)
    warm = eigsh(matrix + 1e-4 * spectrum(BULK, seed=3), 2, tol=1e-4, start=cold.vectors)
    assert warm.converged and warm.matvecs < cold.matvecs


def test_too_few_products_are_no_convergence():
    found = eigsh(spectrum(NORMAL), 3, tol=1e-6, max_matvecs=12)
    assert not found.converged and found.matvecs <= 12 and found.miss_probability == 1
    assert found.resolution > found.residuals.max()  # what is told by values that are off by so much
    true = torch.linalg.eigvalsh(spectrum(NORMAL))
    assert ((found.values[:, None] - true).abs().min(1).values <= found.bound).all()


def test_the_same_seed_gives_the_same_bits():
    matrix = spectrum(NORMAL)
    one, two = eigsh(matrix, 2, seed=3), eigsh(matrix, 2, seed=3)
    assert torch.equal(one.values, two.values) and torch.equal(one.vectors, two.vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "SM"}, "which must be one of LA, SA, LM, BE, got which='SM'"),
        ({"k": 0}, "k must be from 1 to 200"),
        ({"k": 201}, "k must be from 1 to 200"),
        ({"tol": 0.0}, r"tol must be in \(0, 1\)"),
        ({"max_matvecs": 3}, "max_matvecs must be at least 4"),
        ({"start": torch.ones(3)}, r"start must have shape \(200,\)"),
        ({"start": [1.0]}, r"start must have shape \(200,\) or \(200, j\), got list"),
        ({"k": 2.0}, r"k must be from 1 to 200, .* got k=2.0"),
        ({"tol": "1e-3"}, r"tol must be in \(0, 1\), got tol='1e-3'"),
        ({"max_matvecs": 50.0}, "max_matvecs must be at least 4, got 50.0"),
        ({"memory": "1 GB"}, "memory must be an int >= 1, got memory='1 GB'; leave it out"),
        ({"seed": None}, "seed must be an integer of at most 64 bits, got seed=None; a typical value is 0"),
        ({"seed": 2**70}, "seed must be an integer of at most 64 bits, got seed=1180591620717411303424"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^eigsh: {message}"):
        eigsh(torch.eye(N), **options)


def test_what_is_no_operator_is_refused():
    with pytest.raises(ArgumentError, match="H must be a Hessian or another operator, got list"):
        eigsh([[1.0]])
    for matrix, message in (
        (torch.ones(2, 3), r"square and real, got shape=\(2, 3\)"),
        (torch.ones(0, 0), r"square and real, got shape=\(0, 0\)"),
        (torch.eye(2, dtype=torch.bfloat16), "float32 or float64, got torch.bfloat16"),
        (torch.eye(2, dtype=torch.int64), "float32 or float64, got torch.int64"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "symmetric, got elements that differ by up to 2 from the transpose"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "finite, got NaN or Inf"),
    ):
        with pytest.raises(ArgumentError, match=f"^Dense: matrix must be {message}"):
            eigsh(matrix)
    rounded = torch.tensor([[1.0, 2.0], [2.0 * (1 + 1e-5), 1.0]])  # as a Hessian by autograd in float32 may be
    assert eigsh(rounded, max_matvecs=6).values.item() == pytest.approx(3, rel=1e-4)
