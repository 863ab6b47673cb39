"""Traces and densities against sums over all eigenvalues, and intervals that hold as often as they say."""

import math

import pytest
import torch

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.landscape import Dense, spectral_density, trace
from fallline.landscape.operators.base import Meter
from fallline.landscape.spectrum.intervals import mean_interval, t_quantile
from support.landscapes import spectrum

NORMAL = torch.randn(150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DECAYING = torch.arange(1, 301).double() ** -2.0
OUTLIERS = torch.cat([torch.tensor([20.0, 10, 5], dtype=torch.float64), NORMAL])
# 1,000 intervals at 95 % cover 95 % ± 1.4 % of the time (two standard deviations); the issue allows 93 to 97.
RUNS, LOW, HIGH = 1000, 930, 970


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 11, 60, 61, 1000])
@pytest.mark.parametrize("probability", [0.05, 0.6, 0.975, 0.999])
def test_t_quantiles_are_scipys(probability, degrees):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def test_an_interval_of_one_value_is_everything():
    assert mean_interval([2.0]) == (2.0, math.inf, (-math.inf, math.inf))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "matvecs", "method"),
    [(NORMAL, 10, "hutchinson"), (NORMAL, 30, "hutch++"), (OUTLIERS, 60, "hutch++")],
)
def test_intervals_cover_the_trace_as_often_as_they_say(values, matvecs, method):
    matrix, true = spectrum(values), values.sum().item()
    found = [trace(matrix, matvecs, seed, method=method) for seed in range(RUNS)]
    assert LOW <= sum(t.ci95[0] <= true <= t.ci95[1] for t in found) <= HIGH
    errors = torch.tensor([t.estimate - true for t in found])
    assert abs(errors.mean()) < 3 * errors.std() / math.sqrt(RUNS)  # unbiased


def test_hutch_plus_plus_is_better_on_a_decaying_spectrum():
    matrix, true = spectrum(DECAYING), DECAYING.sum().item()

    def rmse(method):
        errors = [trace(matrix, 60, seed, method=method).estimate - true for seed in range(40)]
        return math.sqrt(sum(e * e for e in errors) / len(errors))

    assert rmse("hutchinson") > 5 * rmse("hutch++")  # measured: 68 times


def test_hutch_plus_plus_begins_at_thirty_products():
    matrix = spectrum(NORMAL)
    for matvecs, method in ((29, "hutchinson"), (30, "hutch++")):
        found = trace(matrix, matvecs)
        assert (found.method, found.matvecs) == (method, matvecs)


def test_low_rank_is_exact():
    found = trace(spectrum(torch.tensor([5.0, -3.0] + [0.0] * 98)), 30)
    assert found.estimate == pytest.approx(2.0, abs=1e-8) and found.stderr < 1e-8
    assert found.matvecs == 10 + 2 + 10  # a sketch of rank 2 needs no more for its exact part
    assert trace(torch.zeros(50, 50), 30).estimate == 0
    small = trace(spectrum(torch.tensor([1.0, 2.0, 3.0])), 30)
    assert small.ci95 == pytest.approx((6.0, 6.0)) and (small.method, small.matvecs) == ("exact", 3)


def test_the_quadrature_has_the_moments_of_the_spectrum():
    """Of one probe v, the moments v'·A^i·v up to twice the steps are exact."""
    matrix, steps = spectrum(NORMAL), 6
    found = spectral_density(matrix, probes=2, steps=steps, seed=0)
    generator = torch.Generator().manual_seed(0)
    moments = torch.zeros(2 * steps, dtype=torch.float64)
    for _ in range(2):
        v = power = torch.nn.functional.normalize(torch.randn(150, generator=generator, dtype=torch.float64), dim=0)
        for i in range(2 * steps):
            moments[i] += v @ power / 2
            power = matrix @ power
    right = torch.stack([(found.weights * found.nodes**i).sum() for i in range(2 * steps)])
    assert torch.allclose(right, moments, rtol=1e-8, atol=1e-10)


def test_the_density_is_one():
    found = spectral_density(spectrum(OUTLIERS), probes=8, steps=30)
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-3)
    assert found.weights.sum().item() == pytest.approx(1) and found.matvecs == 240
    assert found.negative_ci95[0] < (OUTLIERS < 0).double().mean().item() < found.negative_ci95[1]
    near_ten = (found.grid > 9) & (found.grid < 11)
    share = torch.trapezoid(found.density[near_ten], found.grid[near_ten]).item()
    assert share == pytest.approx(1 / len(OUTLIERS), rel=0.7)  # 8 probes: standard deviation √(2/8) of it


def test_the_curve_is_as_sharp_at_every_scale():
    one = spectral_density(spectrum(OUTLIERS), probes=2, steps=20)
    small = spectral_density(spectrum(OUTLIERS) * 2.0**-120, probes=2, steps=20)  # a power of 2: the same digits
    assert small.width == pytest.approx(one.width * 2.0**-120)
    assert torch.allclose(small.density * 2.0**-120, one.density)


def test_zeros_are_not_negative():
    found = spectral_density(spectrum(torch.tensor([1.0] * 10 + [0.0] * 90)), probes=4, steps=20)
    assert found.negative_mass == 0 and found.matvecs <= 12  # it knows everything after two or three products
    assert spectral_density(torch.zeros(5, 5), probes=2, steps=3).negative_mass == 0


@pytest.mark.parametrize(
    ("low", "dtype", "mass"),
    [(-1e-3, torch.float32, 0.9), (-1e-5, torch.float32, 0), (-1e-5, torch.float64, 0.9), (-1e-9, torch.float64, 0)],
)
def test_what_rounding_makes_is_not_negative(low, dtype, mass):
    found = spectral_density(torch.diag(torch.tensor([1.0] * 4 + [low] * 36, dtype=dtype)), probes=20, steps=4)
    assert found.negative_mass == pytest.approx(mass, abs=0.05)
    assert 0 <= found.negative_ci95[0] <= found.negative_ci95[1] <= 1


def test_the_interval_of_a_part_is_of_parts():
    for seed in (1, 2, 3):
        found = spectral_density(torch.diag(torch.tensor([1.0, -1.0])), probes=2, steps=2, seed=seed)
        assert found.negative_ci95 in ((0, 0.5), (0.5, 0.5), (0.5, 1), (0, 1))


def test_progress_tells_of_every_product():
    steps = []
    trace(spectrum(NORMAL), 30, progress=steps.append)
    assert [step.done for step in steps] == list(range(31)) and steps[0].total == 30
    steps.clear()
    spectral_density(spectrum(NORMAL), 2, 5, progress=steps.append)
    assert [step.done for step in steps] == list(range(11)) and steps[0].bytes == 5 * 150 * 8


def test_what_is_left_is_said_in_seconds_and_bytes():
    class Timed(Dense):
        seconds = property(lambda self: 2.0, lambda self, value: None)

    steps = []
    meter = Meter(Timed(torch.eye(3)), 4, 5, steps.append)
    for _ in range(3):
        meter.product(torch.ones(3))
    assert [(step.done, step.total, step.seconds, step.bytes) for step in steps] == [
        (0, 4, 8.0, 60), (1, 4, 6.0, 60), (2, 4, 4.0, 60), (3, 4, 2.0, 60),
    ]  # fmt: skip
    assert str(steps[1]) == "1 of at most 4 products, about 6 s left, 0.0 MB extra"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda A: trace(A, 2), "trace: matvecs must be an int >= 3"),
        (lambda A: trace(A, 5, method="hutch++"), None),
        (lambda A: trace(A, 30, method="exact"), "trace: method must be one of auto, hutchinson"),
        (lambda A: spectral_density(A, probes=1), "spectral_density: probes must be an int >= 2"),
        (lambda A: spectral_density(A, steps=1), "spectral_density: steps must be an int >= 2"),
        (lambda A: trace(A, 30.0), "trace: matvecs must be an int >= 3, got matvecs=30.0"),
        (
            lambda A: trace(A, seed=1.5),
            "trace: seed must be an integer of at most 64 bits, got seed=1.5; a typical value is 0",
        ),
        (lambda A: spectral_density(A, seed="a"), "spectral_density: seed must be an integer"),
        (lambda A: spectral_density(A, "4"), "spectral_density: probes must be an int >= 2, got probes='4'"),
    ],
)
def test_bad_arguments_are_one_clear_error(call, message):
    if message is None:
        assert math.isfinite(call(spectrum(NORMAL)).stderr)
        return
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^{message}"):
        call(torch.eye(4))
