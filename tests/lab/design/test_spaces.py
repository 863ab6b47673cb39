"""The published ranges: what is searched of each optimizer, from where to where, and at which budget."""

import inspect
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.cli.options import QUICK, STANDARD, THOROUGH, Effort
from fallline.lab.design.optimizers import get_space
from fallline.lab.design.spaces import AXES, SPACES, Dimension, sobol

L2, DECOUPLED = (1e-6, 1e-2), (1e-3, 1.0)
MOMENTUM, BETA1, BETA2, ALPHA = (5e-3, 0.3), (2e-2, 0.5), (1e-3, 0.1), (1e-3, 0.1)  # of 1 − value
EPS, WARMUP = (1e-10, 1e-5), (0.0, 0.02, 0.05, 0.1)
ADAM = {"1-beta1": BETA1, "1-beta2": BETA2, "eps": EPS}
RANGES = {
    "sgd": {"lr": (1e-3, 3), "weight_decay": L2},
    "momentum": {"lr": (1e-3, 1), "weight_decay": L2, "1-momentum": MOMENTUM},
    "nesterov": {"lr": (1e-3, 1), "weight_decay": L2, "1-momentum": MOMENTUM},
    "rmsprop": {"lr": (1e-5, 1e-1), "weight_decay": L2, "1-alpha": ALPHA},
    "adagrad": {"lr": (1e-4, 1), "weight_decay": L2},
    "adafactor": {"lr": (1e-4, 1e-1), "weight_decay": DECOUPLED},
    "adam": {"lr": (1e-4, 1e-1), "weight_decay": L2, **ADAM},
    "adamax": {"lr": (1e-4, 1e-1), "weight_decay": L2, **ADAM},
    "radam": {"lr": (1e-4, 1e-1), "weight_decay": L2, **ADAM},
    "adamw": {"lr": (3e-5, 1e-1), "weight_decay": DECOUPLED, **ADAM},
    "ademamix": {
        "lr": (3e-5, 1e-1),
        "weight_decay": DECOUPLED,
        "1-beta3": (1e-4, 1e-2),
        "alpha": (1.0, 16.0),
        "1-beta2": BETA2,
        "eps": EPS,
    },
    "adan": {
        "lr": (1e-4, 3e-1),
        "weight_decay": DECOUPLED,
        "1-beta1": (2e-2, 0.1),
        "1-beta3": (1e-3, 0.1),
        "eps": EPS,
    },
    "soap": {"lr": (3e-5, 1e-1), "weight_decay": DECOUPLED, **ADAM},
    "lamb": {"lr": (1e-3, 1e-1), "weight_decay": DECOUPLED, "1-beta1": (5e-2, 0.3)},
    "lion": {"lr": (1e-5, 1e-2), "weight_decay": (3e-3, 10.0), "betas": ((0.9, 0.99), (0.95, 0.98))},
    "sam(sgd)": {"lr": (1e-3, 3), "weight_decay": L2, "rho": (1e-2, 0.5)},
}
# Trials; the rest from 64 on.
FROM = {"lr": 1, "weight_decay": 9, "momentum": 25, "beta1": 25, "betas": 25, "rho": 25}


@pytest.mark.parametrize("arm", RANGES)
def test_the_ranges_are_the_published_ones_searched_in_log(arm):
    found = {}
    for d in get_space(arm).dimensions:
        ends = [d.value(0.0), d.value(1.0), d.value(0.5)]
        if d.choices:
            found[d.name] = d.choices
            continue
        low, high, middle = (1 - end for end in ends) if d.complement else ends
        assert middle == pytest.approx(math.sqrt(low * high))
        found["1-" * d.complement + d.name] = (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))
    assert {**RANGES[arm], "warmup": WARMUP} == found


@pytest.mark.parametrize("arm", RANGES)
@pytest.mark.parametrize("trials", [1, 8, 9, 24, 25, 63, 64])
def test_dimensions_come_in_at_the_published_budgets(arm, trials):
    space = get_space(arm)
    start = {**FROM, "alpha": 25, "beta3": 25} if arm == "ademamix" else FROM  # elsewhere they are of squares
    expected = [d.name for d in space.dimensions if trials >= start.get(d.name, 64)]
    assert [d.name for d in space.dimensions_for(trials, {}, {})] == expected
    assert "lr" not in [d.name for d in space.dimensions_for(trials, {"lr": 0.1}, {})]
    assert [d.name for d in space.dimensions_for(1, {}, {"warmup": (0.0, 0.1)})] == ["lr", "warmup"]


def test_every_optimizer_with_a_range_of_its_own_is_held_to_it():
    own = {"sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamax", "radam", "adamw", "lamb", "lion"}
    own |= {"adafactor", "soap"}
    assert RANGES.keys() >= own <= SPACES.keys()


def test_three_betas_are_passed_together():
    values = {"lr": 0.1, "beta3": 0.99, "beta2": 0.9, "beta1": 0.5, "warmup": 0.05}
    assert SPACES["ademamix"].options(values) == {"lr": 0.1, "betas": (0.5, 0.9, 0.99)}
    assert SPACES["sgd"].options({"lr": 0.1, "beta3": 0.99}) == {"lr": 0.1, "beta3": 0.99}  # of the user's script


@pytest.mark.parametrize("count", [2, 8, 64])
def test_a_power_of_two_of_points_has_one_in_each_of_as_many_equal_parts_of_every_axis(count):
    """What makes a Sobol sequence better than random points; it is lost when its first point is left out."""
    points = sobol(5, count)
    for axis in AXES:
        assert sorted(int(count * point[axis]) for point in points) == list(range(count))


@pytest.mark.parametrize("arm", [*SPACES, "sam(adamw)"])
def test_no_two_hyperparameters_of_an_arm_share_a_column(arm):
    axes = [d.axis for d in get_space(arm).dimensions]
    assert len(set(axes)) == len(axes)  # or they would rise and fall together


def test_choices_have_equal_parts_of_the_unit_interval_and_stand_in_the_middle_of_theirs():
    choice = Dimension("warmup", "warmup", choices=WARMUP)
    assert [choice.value(unit) for unit in (0.0, 0.2499, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.02, 0.05, 0.1, 0.1]
    assert [choice.unit(value) for value in WARMUP] == [0.125, 0.375, 0.625, 0.875]
    assert Counter(choice.value((i + 0.5) / 100) for i in range(100)) == dict.fromkeys(WARMUP, 25)


@pytest.mark.parametrize(("arm", "adaptive"), [("sam(adamw)", False), ("asam(adamw)", True)])
def test_the_default_rho_is_that_of_the_paper(arm, adaptive):
    given = inspect.signature(fl.SAM).parameters["rho"].default  # Foret et al. 2021; Kwon et al. 2021 take ten times it
    assert get_space(arm).defaults["rho"] == pytest.approx(10 * given if adaptive else given)


@pytest.mark.parametrize(
    ("arm", "decay"),
    [
        ("torch.optim:NAdam", L2),
        ("torch.optim:Adamax", L2),
        ("torch.optim:AdamW", DECOUPLED),
        ("torch.optim:Muon", DECOUPLED),
        ("nadamw", DECOUPLED),
    ],
)
def test_the_decay_of_any_class_is_searched_where_its_kind_is(arm, decay):
    if arm.startswith("torch") and not hasattr(torch.optim, arm.partition(":")[2]):
        # torch>=2.6 is asked for, and Muon came with 2.9: there is nothing whose decay could be searched.
        pytest.skip(f"torch {torch.__version__} has no {arm}")
    space = get_space(arm)
    (dimension,) = [d for d in space.dimensions if d.name == "weight_decay"]
    assert (dimension.low, dimension.high) == decay
    assert space.defaults["weight_decay"] == 0 or decay[0] <= space.defaults["weight_decay"] <= decay[1]


def test_the_efforts_are_those_of_the_docs():
    page = (Path(__file__).parents[3] / "docs/lab.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`--quick`|standard|`--thorough`) \| (\d+) \| (\d+).*? \| (\d+)(?: to (\d+), as many as decide it)? \|$",
        page,
        re.M,
    )
    efforts = [
        Effort(int(trials), int(searches), (int(fewest), int(most)) if most else int(fewest))
        for _, trials, searches, fewest, most in rows
    ]
    assert efforts == [QUICK, STANDARD, THOROUGH] == [Effort(8, 1, 5), Effort(16, 1, (4, 16)), Effort(32, 3, 10)]
