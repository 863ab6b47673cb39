"""What results say when they are printed: a line, with the digits that they have."""

import pytest
import torch
from torch import nn

import fallline as fl
from fallline import landscape
from fallline.formatting import format_measurement
from fallline.lab.race import race
from support.studies import changed


@pytest.mark.parametrize(
    ("value", "bound", "said"),
    [
        (0.31456, 0.0, "0.3146"),
        (-0.31456, 0.02, "−0.31 ± 0.02"),
        (0.31456, 2e-6, "0.3146 ± 0.0001"),
        (31.456, 3.0, "31 ± 3"),
        (31456.7, 30.0, "3.146e+04 ± 3e+01"),
        (3.1e-9, 2e-11, "3.1e−09 ± 2e−11"),
        (-3.1e-9, 2e-6, "−3.1e−09 ± 2e−06"),
        (0.0, 0.0, "0"),
        (1.5, float("inf"), "1.5"),
    ],
)
def test_a_number_has_the_digits_that_its_bound_allows(value, bound, said):
    assert format_measurement(value, bound) == said


MATRIX = torch.diag(torch.tensor([2.0, -0.5, 0.25, 0.125], dtype=torch.float64))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            lambda: landscape.eigsh(MATRIX, 2),
            "2.0000 ± 0.0001, 0.2500 ± 0.0001; converged, probability of a missed eigenvalue",
        ),
        (
            lambda: landscape.eigsh(torch.diag(torch.linspace(0, 1, 50)), 3, max_matvecs=8),
            "; not converged, probability of a missed eigenvalue 1; 8",
        ),
        (lambda: landscape.trace(MATRIX), "1.875; exact, 4 products"),
        (lambda: landscape.trace(MATRIX, 3), "1.875, 95 % interval 1.875 to 1.875; hutchinson, 3 products"),
        (lambda: landscape.classify_point(MATRIX), "saddle: λmin = −0.5000 ± 0.0001, λmax = 2.0000 ± 0.0001"),
        (lambda: landscape.spectral_density(MATRIX), "eigenvalues from −0.5 to 2, "),
        (lambda: landscape.sharpness(MATRIX), "2.0000 ± 0.0001; 8 products"),
    ],
)
def test_what_is_found_of_a_matrix_is_a_line(found, said):
    line = str(found())
    assert said in line and "\n" not in line and len(line) < 160


def test_what_is_found_of_a_model_is_a_line():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    data = torch.ones(1, 1)

    def loss(model, batch):
        return 1.5 * model(batch).square().mean()  # of curvature 3

    opt = fl.SGD(model.parameters(), lr=0.5)
    H = landscape.Hessian(model, loss, data)
    assert str(landscape.sharpness(H, opt)).startswith("3.0000 ± 0.0001, 0.75 of the limit 4; ")
    low = str(landscape.critical_sharpness(model, loss, data, torch.tensor([-3.0])))
    assert low.startswith("3.") and "the loss rises above its initial value at a step of 0.6" in low
    flat = str(landscape.surface(model, loss, data, directions=(torch.ones(1), torch.ones(1)), n=3))
    assert flat == "loss 1.5 at the weights, 0 to 13.5 on 9 cells"
    wide = nn.Linear(2, 1, bias=False)
    path = [{"weight": wide.weight.detach() + torch.tensor([[x, 0.0]])} for x in (2.0, 1.0, 0.0)]
    along = str(landscape.trajectory(wide, path, (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))))
    assert along == "3 points, 100 % and 0 % of their variance in the plane, distance to it at most 0"
    found = landscape.lr_range(model, opt, loss, [data] * 50, steps=20)
    assert str(found) == found.verdict


def test_a_study_prints_ranks_verdicts_and_warnings(study):
    lines = str(study).splitlines()
    assert lines[0] == f"study of digits in {study.store.folder}"
    best = study.leaderboard()[0]
    assert lines[1].startswith(f"1. {best['arm']}: test loss {best['test_loss']:.4g} ± ")
    assert lines[3] == "– sgd@lr=1e30: failed 2 of 2"  # no rank, as in the report
    assert lines[4:] == [f"• {r.sentence}" for r in study.results.values()] + [f"! {w}" for w in study.warnings()]
    for missing in ("searches", "outcomes"):
        assert str(changed(study, **{missing: {}})).endswith(": not finished")


def test_a_race_prints_a_line_an_arm():
    found = race("ravine", ["sgd", "momentum@lr=1e-4"], steps=200)
    assert str(found).splitlines() == [
        "ravine, 200 steps",
        f"sgd at lr {found.ranking[0].lr:.3g}: {found.ranking[0].reached} steps to the goal",
        "momentum@lr=1e-4 at lr 0.0001: the goal is not reached",
    ]
