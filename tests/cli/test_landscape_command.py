"""`fallline landscape`: what it measures of a task, what it says, and the page."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.cells import cell_len

from fallline.lab.run.curvature import measure_curvature
from fallline.lab.tasks import get_task

TASK = '''
import fallline
import torch


@fallline.task(steps=20)
class Line:
    """A quadratic with curvatures 4, 1 and -0.5 at the origin, whatever the batch."""

    def model(self):
        model = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.constant_(model.weight, 1e-4)
        return model

    def batches(self, split, generator):
        for _ in iter(int, 1 if split == "train" else 0):
            yield torch.zeros(8, 1)

    def loss(self, model, batch):
        return (torch.tensor([4.0, 1.0, -0.5]) * model.weight[0].square()).sum() / 2 + 1.0 + 0 * batch.sum()


@fallline.task(steps=20)
class Tokens:
    """Curvature x², over batches of seven tokens and of three, in a row each."""

    def model(self):
        return torch.nn.Linear(1, 1, bias=False)

    def batches(self, split, generator):
        for _ in iter(int, 1 if split == "train" else 0):
            yield torch.full((1, 7), 2.0)
            yield torch.full((1, 3), 1.0)

    def size(self, batch):
        return batch.numel()

    def loss(self, model, batch):
        return model(batch.reshape(-1, 1)).square().mean() / 2
'''


@pytest.fixture
def fallline(fallline, monkeypatch, tmp_path):
    """Run `fallline landscape` in this process and in a folder of its own; return exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.py").write_text(TASK)
    return functools.partial(fallline, "landscape")


def test_it_says_what_the_model_stands_on(fallline, tmp_path):
    code, out, err = fallline("line.py:Line", "--optimizer", "momentum@lr=0.1", "--items", 20)
    text = " ".join(out.split())
    assert code == 0
    assert "saddle: λmin = −0.5000 ± 0.0001, λmax = 4.0000 ± 0.0001" in text
    assert "condition number undefined at a saddle; sharpness × lr = 0.4 of 3.8." in text
    assert "initial weights: 3 parameters, loss 1 over 24 items, eval mode" in text
    stages = ["eigenvalues", "sharpness", "trace", "spectrum", "surface 1 of 2", "surface 2 of 2"]
    assert [line.partition(": 0/")[0] for line in err.splitlines()] == stages
    assert all(" left" in line for line in err.splitlines())  # the estimate before each measurement
    assert max(cell_len(line) for line in out.splitlines() if not line.startswith("page: ")) <= 80
    assert "→ the eigenvector of λmax, ±0.71" in text and "↑ the eigenvector of λmin" in text  # √(2·1/4)
    page = (tmp_path / "landscape.html").read_text()
    assert 'data-figure="surface-eigenvectors"' in page and 'data-figure="surface-random"' in page
    assert "Saddle: the curvature is negative in some directions" in page and "Limitations" in page
    assert "fallline landscape line.py:Line --optimizer momentum@lr=0.1 --items 20" in page
    assert "http://" not in page.replace("http://www.w3.org", "") or "default-src 'none'" in page


def measured(**options):
    return measure_curvature(get_task("line.py:Line"), items=8, **options)


def test_what_has_not_converged_is_said(fallline, capsys):
    from fallline.cli.landscape import _show
    from fallline.lab.design.arms import make_arms

    found = measured(arm=make_arms(["sgd"], ["constant"])[0], cells=0)
    eigen = replace(found.point.eigen, converged=False, miss_probability=0.25, matvecs=12)
    sharpness = replace(found.sharpness, converged=False, matvecs=7)
    doubtful = replace(found, point=replace(found.point, eigen=eigen), sharpness=sharpness)
    for shown, times in ((found, 0), (doubtful, 2)):
        _show(shown)
        text = " ".join(capsys.readouterr().out.split())
        assert text.count("! The search for the") == times
    assert "has not converged in 12 products: the probability that it missed one is 0.25." in text
    assert "has not converged in 7 products: the sharpness may be larger than 4." in text


def test_the_axis_of_the_spectrum_has_its_zero_where_it_is():
    from fallline.cli.landscape import picture

    grid = torch.linspace(-1, 3, 512)
    density = SimpleNamespace(grid=grid, density=torch.exp(-(grid**2)), width=0.1)
    axis = picture(SimpleNamespace(density=density, parameters=100))[-2]
    assert axis.index("0") - axis.index("└") - 1 == round(63 / 4)


def test_the_page_has_the_whole_command():
    from fallline.cli.landscape import _command

    assert _command("digits", "c.pt", "adam", 5, 1024, 11, 3, ["batch_size=8"], "book.txt") == (
        "fallline landscape digits --checkpoint c.pt --optimizer adam --text book.txt --steps 5 --seed 3 --cells 11 "
        "--items 1024 --set batch_size=8"
    )
    assert _command("digits", None, None, 0, 64, 21, 0, None, None) == "fallline landscape digits --items 64"


def test_the_weights_are_called_what_they_are(fallline, tmp_path):
    from fallline.lab.design.arms import make_arms

    (arm,) = make_arms(["sgd"], ["constant"])
    torch.save(torch.nn.Linear(3, 1, bias=False).state_dict(), tmp_path / "c.pt")
    places = [
        measured(arm=arm, cells=0, steps=steps, checkpoint=checkpoint).place
        for checkpoint in (None, tmp_path / "c.pt")
        for steps in (0, 1, 2)
    ]
    assert places == [
        "the initial weights",
        "the weights after 1 step of sgd",
        "the weights after 2 steps of sgd",
        "the weights of c.pt",
        "the weights of c.pt after 1 step of sgd",
        "the weights of c.pt after 2 steps of sgd",
    ]


def test_batches_weigh_by_the_tasks_own_sizes(fallline):
    found = measure_curvature(get_task("line.py:Tokens"), items=10, cells=0)
    assert found.point.largest == pytest.approx((7 * 4 + 3 * 1) / 10, rel=1e-6)
    assert (found.items, found.batches) == (10, 2)


def test_a_checkpoint_brings_the_second_moments_of_its_optimizer(fallline, tmp_path):
    """Without them there is no preconditioner: P = (1 − β1)·(√v̂ + eps) after one step, v̂ being g²."""
    from fallline.lab.design.arms import make_arms
    from fallline.lab.design.optimizers import build_optimizer

    (arm,) = make_arms(["adam"], ["constant"])
    model = torch.nn.Linear(3, 1, bias=False)
    options = arm.space.options({**arm.space.defaults, **arm.fixed})
    optimizer = build_optimizer("adam", model.parameters(), **options)
    model.weight.grad = torch.tensor([[8.0, 1.0, 1.0]])
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    found = measured(arm=arm, checkpoint=tmp_path / "c.pt", cells=0)
    assert found.sharpness.preconditioned
    assert found.sharpness.value == pytest.approx(1.0 / (0.1 * 1.0), rel=1e-4)  # the second axis: 4/8 < 1/1


def test_surfaces_are_those_of_the_quadratic_along_the_eigenvectors(fallline):
    steps = []
    found = measured(cells=5, report=lambda what, step: steps.append((what, str(step))))
    surface = found.surfaces["eigenvectors"]
    x, y = surface.x, surface.y[:, None]
    assert x[-1] == pytest.approx(0.5**0.5, rel=1e-3) and y[-1, 0] == 1  # not 2: ‖w‖ is small
    assert surface.values == pytest.approx(1 + 2 * x**2 - 0.25 * y**2, abs=1e-3)
    assert surface.centre == found.loss
    assert found.surfaces["random"].kind == "filter" and list(measured(cells=0).surfaces) == []
    assert next(text for what, text in steps if what == "surface 1 of 2").startswith(
        "0 of at most 25 forward passes, about "
    )


def test_a_relief_is_darker_where_the_loss_is_higher():
    import numpy as np

    from fallline.cli.landscape import beside, relief
    from fallline.landscape import surface

    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)

    def loss(model, batch):  # rises to the right, and is no number at the top
        x, y = model.weight[0]
        return x + torch.where(y > 0.9, np.nan, 0.0)

    found = surface(model, loss, torch.zeros(1), list(torch.eye(2)), n=5)
    lines = relief(found, ("one way", "the other"))
    assert lines[:5] == ["┌─────┐", "│?????│", "│ ·+▓█│", "│ ·░▓█│", "└─────┘"]
    assert lines[5:] == ["→ one way, ±1", "↑ the other, ±1", "loss -1 to 1, + 0"]
    assert beside([lines, lines])[1] == f"{lines[1]:20}{lines[1]}"  # the widest has 17
    assert len(beside([["─" * 50]] * 2)) == 3  # one below the other, and a line between
    wide = surface(model, loss, torch.zeros(1), list(torch.eye(2)), n=65)
    assert max(map(len, relief(wide, ("x", "y")))) <= 34 and any("+" in line for line in relief(wide, ("x", "y"))[:-1])


@pytest.mark.slow
def test_it_reads_a_checkpoint(fallline, tmp_path):
    torch.save({"model": {"weight": torch.full((1, 3), 2.0)}}, tmp_path / "c.pt")
    code, out, _ = fallline("line.py:Line", "--checkpoint", "c.pt")
    assert code == 0 and "the weights of c.pt" in out
    assert "10" in " ".join(out.split()).partition("loss ")[2][:3]  # 1 + (4 + 1 − 0.5)·4/2 = 10


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "checkpoint: must be a file of torch.save, got 'c.pt' (No such file or directory)"),
        (3, "checkpoint: must hold a state dict, got int in 'c.pt'"),
        ({"weight": torch.ones(2, 2)}, "checkpoint: weights must fit the task's model, got c.pt"),
        ({"model": object}, "checkpoint: must hold only tensors and plain numbers, got 'c.pt'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(fallline, tmp_path, saved, message):
    if saved is not None:
        torch.save(saved, tmp_path / "c.pt")
    code, _, error = fallline("line.py:Line", "--checkpoint", "c.pt")
    assert code == 2 and message in error and "Traceback" not in error


@pytest.mark.slow
def test_an_optimizer_without_a_limit_is_said_to_have_none(fallline):
    code, out, _ = fallline("line.py:Line", "--optimizer", "lion")
    text = " ".join(out.split())
    assert code == 0 and "declares its stability, got Lion" in text and "× lr" not in text.partition("quantity")[0]
    code, _, error = fallline("line.py:Line", "--steps", 3)
    assert code == 2 and "steps need an optimizer" in error
    code, out, error = fallline("line.py:Line", "--cells", 4)
    assert code == 2 and out == "" and "cells must be odd and at least 3" in error  # before anything is measured


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits-cnn", "text"])
def test_thirty_products_give_the_top_eigenvalue_of_the_labs_models(name):
    """To a thousandth, at the start and in training; measured: 5e-6 at most."""
    import warnings

    from fallline.errors import LandscapeWarning
    from fallline.landscape import Hessian, eigsh

    warnings.simplefilter("ignore", LandscapeWarning)
    task = get_task(name)
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = iter(task.batches("train", torch.Generator().manual_seed(0)))
    for steps in (0, 40):
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(model, next(batches)).backward()
            optimizer.step()
        H = Hessian(model, task.loss, next(batches), weight=task.size)
        true = eigsh(H, tol=1e-5, max_matvecs=200)
        found = eigsh(H, seed=1, max_matvecs=30)
        assert found.matvecs <= 30 and true.residuals[0] < 1e-4 * true.values[0]
        assert found.values[0].item() == pytest.approx(true.values[0].item(), rel=1e-3)


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers():
    from fallline.lab.design.arms import make_arms

    (arm,) = make_arms(["adam"], ["constant"])
    one, two = (measure_curvature(get_task("digits"), arm=arm, steps=5, items=100) for _ in range(2))
    assert one.sentence == two.sentence and one.trace == two.trace
    assert one.sharpness.preconditioned and "preconditioned sharpness × lr" in one.sentence
