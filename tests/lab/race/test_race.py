"""The race: paths are descents by hand, budgets are equal, lines lie on their levels, and a browser plays it."""

import json
import math

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from fallline.errors import ArgumentError
from fallline.lab.race import race
from fallline.lab.race.contours import level_lines
from fallline.lab.race.runs import LRS, _reached, descend
from fallline.lab.race.scene import contours, visible_points
from fallline.lab.report.style import arm_styles
from fallline.problems import PROBLEMS, Problem
from support.browsers import Loads, browse, noted

SADDLE = ["sgd", "momentum"]


@pytest.fixture(scope="module")
def ravine():
    return race("ravine", ["sgd", "momentum", "rmsprop"], steps=200)


def test_sgds_path_is_gradient_descent_by_hand():
    """The surface written down again, in numpy."""
    matrix = np.array([[0.96, 0.28], [-0.28, 0.96]])
    hessian = matrix.T @ np.diag([1.0, 100.0]) @ matrix
    tracks = descend(PROBLEMS["ravine"], "sgd", {"weight_decay": 0.0}, [0.01, 0.015], 20)
    for lr, track in zip((0.01, 0.015), tracks, strict=True):
        point = np.array([-1.9, 0.35])
        for found in track:
            assert found == pytest.approx(point, rel=1e-12)
            point = point - lr * hessian @ (point - 1)


@pytest.mark.parametrize("name", ["sgd", "adam", "lamb", "prodigy", "sam(sgd)", "torch.optim:NAdam"])
def test_rates_run_together_as_they_run_alone(name):
    options = {"rho": 0.1} if name.startswith("sam") else {}
    together = descend(PROBLEMS["rosenbrock"], name, options, [1e-4, 1e-3, 10.0], 10)
    for k, lr in enumerate([1e-4, 1e-3, 10.0]):
        alone = descend(PROBLEMS["rosenbrock"], name, options, [lr], 10)
        assert np.array_equal(together[k], alone[0], equal_nan=True)


def test_the_goal_is_reached_when_it_is_kept():
    assert _reached(np.array([3.0, 1, 3, 1, 1]), 2) == 3
    assert _reached(np.array([1.0, 1]), 2) == 0
    assert _reached(np.array([1.0, np.nan, 1]), 2) == 2
    assert _reached(np.array([3.0, 1, np.inf]), 2) is None


def test_every_arm_has_the_same_rates_and_the_best_is_visible_points(ravine):
    assert {run.tried for run in ravine.runs} == {len(LRS)} == {41}
    assert ravine.goal == pytest.approx(1e-3 * float(PROBLEMS["ravine"](torch.tensor((-1.9, 0.35)))), rel=1e-6)
    (run,) = [run for run in ravine.runs if run.arm == "sgd"]
    every = descend(PROBLEMS["ravine"], "sgd", {"weight_decay": 0.0}, LRS, 200)
    steps = [_reached(PROBLEMS["ravine"](torch.tensor(track)).numpy(), ravine.goal) for track in every]
    assert run.reached == min(step for step in steps if step is not None)
    assert run.lr == LRS[steps.index(run.reached)] and not run.edge
    assert run.lr < 2 / 100  # the limit of stability across the ravine


def test_sgd_zigzags_in_the_ravine_and_well_tuned_momentum_takes_the_root_of_its_steps():
    """Condition 100: about 100/4·ln(1/goal) steps against √100/4 of them."""
    found = race("ravine", ["sgd", "momentum@momentum=0.67"], steps=200)
    sgd, momentum = found.runs
    matrix = np.array([[0.96, 0.28], [-0.28, 0.96]])
    across = (matrix @ (sgd.points - 1).T)[1]
    assert (np.sign(across[1:11]) != np.sign(across[:10])).all()  # from one wall to the other, every step
    assert 5 < sgd.reached / momentum.reached < math.sqrt(100)


def test_no_rate_of_sgd_serves_the_plateau():
    """One that suits the hollow, below 2, crawls for 160 steps; a larger one cannot settle."""
    found = race("plateau", ["sgd", "rmsprop"], steps=100)
    sgd, rmsprop = found.runs
    assert sgd.reached is None and rmsprop.reached < 50
    start = np.hypot(*PROBLEMS["plateau"].start)
    (slow,) = race("plateau", ["sgd@lr=1.5"], steps=100).runs
    assert np.hypot(*slow.points[100]) > 0.8 * start and slow.values[100] > 0.99


def test_momentum_leaves_the_saddle_in_a_quarter_of_the_steps_at_the_same_rate():
    sgd, momentum = race("saddle", SADDLE, lr=0.02, steps=300).runs
    out = [int(np.argmax(np.abs(run.points[:, 1]) > 0.5)) for run in (sgd, momentum)]
    by_hand = math.log(0.5 / 0.01) / math.log(1.02)  # y grows by 1 + lr a step, near the saddle
    assert out[0] == pytest.approx(by_hand, rel=0.08)
    root = (1.92 + math.sqrt(1.92**2 - 4 * 0.9)) / 2  # of r² − (1 + μ + lr)·r + μ, with momentum μ = 0.9
    assert out[1] < out[0] / 3 and out[1] > math.log(0.5 / 0.01) / math.log(root)


def test_decay_is_off_unless_it_is_asked_for():
    """It would move the minimum, which is at (1, 1)."""
    (run, decayed) = race("ravine", ["adamw", "adamw@weight_decay=0.01"], lr=0.1, steps=20).runs
    for found, decay in ((run, 0.0), (decayed, 0.01)):
        assert np.array_equal(found.points, descend(PROBLEMS["ravine"], "adamw", {"weight_decay": decay}, [0.1], 20)[0])
    assert not np.array_equal(run.points, decayed.points)


def test_the_best_of_rates_that_miss_the_goal_is_no_divergence_and_an_edge_is_said():
    (run,) = race("rosenbrock", ["sgd"], steps=50).runs
    every = descend(PROBLEMS["rosenbrock"], "sgd", {"weight_decay": 0.0}, LRS, 50)
    assert run.reached is None and not run.edge
    assert np.isnan(every[-1]).any() and np.isfinite(run.values).all()
    edge = Problem("edge", lambda p: p.sum(-1).sqrt(), (1.0, 1.0), ((0.0, 0.0),), (), ((-1, 1), (-1, 1)))
    (run,) = race(edge, ["sgd"], steps=5).runs  # a long step leaves where it is defined, without a large value before
    assert run.reached is None and np.isfinite(run.values).all()
    flat = Problem("flat", lambda p: 1e-3 * p.square().sum(-1), (1.0, 1.0), ((0.0, 0.0),), (), ((-1, 1), (-1, 1)))
    (run,) = race(flat, ["sgd"], steps=10).runs
    assert run.edge and run.lr == LRS[-1]


def test_a_rate_for_all_is_not_tuned():
    found = race("ravine", ["sgd", "adam@lr=0.1"], lr=0.03, steps=10)
    assert [(run.lr, run.tried, run.edge) for run in found.runs] == [(0.03, 1, False), (0.1, 1, False)]


def test_what_cannot_be_used_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ArgumentError, match="surface: must be one of ravine, saddle, plateau, rosenbrock, got 'hill'"):
        race("hill")
    with pytest.raises(ArgumentError, match="race: steps must be an int >= 2, got steps=1"):
        race("ravine", steps=1)
    with pytest.raises(ArgumentError, match="race: lr must be a finite number > 0, got lr=0"):
        race("ravine", lr=0)
    with pytest.raises(ArgumentError, match=r"must end in \.html, \.svg, \.png, \.pdf"):
        race("ravine", ["sgd"], lr=0.01).save(tmp_path / "race.gif")


@pytest.mark.parametrize("level", [0.3, 1.0, 5.0])
def test_level_lines_lie_on_their_level(level):
    x, y = np.linspace(-2, 2, 101), np.linspace(-1.5, 1.5, 91)

    def function(x, y):
        return x**2 + 2 * y**2

    lines = level_lines(x, y, function(x, y[:, None]), level)
    for line in lines:
        assert function(*line.T) == pytest.approx(level, abs=2e-3)  # of linear interpolation: h²/8 of the curvature
    closed = level < 4  # beyond, the ellipse leaves the grid to all four sides
    assert len(lines) == (1 if closed else 4)
    assert all(np.array_equal(line[0], line[-1]) is closed for line in lines)
    if closed:
        (x, y), (u, v) = lines[0][:-1].T, lines[0][1:].T
        assert abs((x * v - y * u).sum()) / 2 == pytest.approx(math.pi * level / math.sqrt(2), rel=3e-3)


def test_level_lines_through_a_pass_do_not_cross_nor_break():
    """x·y has a saddle in the middle of a cell: two branches at every level but 0."""
    x = np.linspace(-1, 1, 40)
    for level, signs in ((0.0001, {1}), (-0.0001, {-1})):
        lines = level_lines(x, x, x * x[:, None], level)
        assert len(lines) == 2
        assert {int(s) for line in lines for s in np.sign(line[:, 0] * line[:, 1])} == signs


def test_every_surface_has_level_lines_inside_its_domain():
    for problem in PROBLEMS.values():
        lines = contours(problem)
        (left, right), (low, high) = problem.domain
        points = np.concatenate(lines)
        assert len(lines) >= 6
        assert ((points >= [left, low]) & (points <= [right, high])).all()


def test_a_path_is_drawn_until_it_is_absurdly_far():
    (run,) = race("rosenbrock", ["sgd@lr=1"], steps=20).runs
    assert not np.isfinite(run.values[-1])
    drawn = visible_points(run, PROBLEMS["rosenbrock"])
    assert 1 <= len(drawn) < 5 and np.isfinite(drawn).all()


def test_the_still_picture_shows_levels_paths_start_and_minima(ravine):
    spec = ravine.plot().to_dict()
    text = json.dumps(spec)
    assert "NaN" not in text
    for arm, style in arm_styles([run.arm for run in ravine.runs]).items():
        assert style.colour in text and f'"{arm}, lr' in text


@pytest.mark.slow
def test_still_pictures_are_written_in_every_format(ravine, tmp_path):
    assert ravine.save(tmp_path / "a" / "race.svg").read_text().startswith("<svg")
    assert (ravine.save(tmp_path / "race.png")).read_bytes().startswith(b"\x89PNG")


def test_the_page_fetches_nothing_and_says_how(ravine, tmp_path):
    text = ravine.save(tmp_path / "race.html").read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(text)
    assert loads.found == ["data:,"]  # an empty icon
    assert "default-src 'none'" in text
    assert "the same 41 learning rates from 1e-04 to 10" in text and "every gradient is exact" in text
    for run in ravine.runs:
        assert f'<th class="arm">{run.arm}</th><td>{run.lr:.3g}</td>' in text
    assert "says nothing about which optimizer suits a network" in " ".join(text.split())


# In Chromium's virtual time a frame is drawn once and never again; timers go on.
FRAMES = "<script>window.requestAnimationFrame = (f) => setTimeout(() => f(performance.now()), 16);</script>"
PROBE = """
addEventListener("load", () => {
  const at = () => Number(document.getElementById("stage").dataset.step);
  const ink = () => {
    const stage = document.getElementById("stage");
    const copy = new OffscreenCanvas(stage.width, stage.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(stage, 0, 0);
    const data = copy.getImageData(0, 0, stage.width, stage.height).data;
    let count = 0;
    // The blue of sgd, (0, 114, 178), and not a blend of the green of another run, (0, 158, 115).
    for (let k = 0; k < data.length; k += 4) count += data[k] < 60 && data[k + 1] < 140 && data[k + 2] > 120;
    return count;
  };
  let tries = 0;
  const waiting = setInterval(() => {
    if (at() === 0 && ++tries < 60) return;
    clearInterval(waiting);
    const seen = { moving: at() > 0, label: document.getElementById("play").textContent };
    document.getElementById("play").click();
    const slider = document.getElementById("step");
    const move = (step) => { slider.value = step; slider.dispatchEvent(new Event("input")); };
    move(0);
    seen.none = ink();
    move(200);
    seen.step = at();
    seen.now = document.getElementById("now").textContent;
    seen.value = document.querySelector('[data-value="0"]').textContent;
    seen.all = ink();
    document.querySelector('[data-run="0"]').click();
    seen.hidden = ink();
    seen.pressed = document.querySelector('[data-run="0"]').getAttribute("aria-pressed");
    seen.stopped = document.getElementById("play").textContent;
    seen.wide = document.documentElement.scrollWidth - innerWidth;
    document.body.dataset.seen = JSON.stringify(seen);
  }, 100);
});
"""


CORNER = """
const noteCorner = (name) => {
  const stage = document.getElementById("stage");
  document.body.dataset[name] = JSON.stringify([...stage.getContext("2d").getImageData(1, 1, 1, 1).data]);
};
setTimeout(() => {
  noteCorner("screen");
  dispatchEvent(new Event("beforeprint"));
  noteCorner("print");
}, 2000);
"""


@pytest.mark.slow
def test_the_picture_is_dark_on_a_dark_screen_and_light_in_print(ravine, tmp_path):
    page = ravine.save(tmp_path / "race.html")
    dom, _ = browse(page, tmp_path, CORNER, "--blink-settings=preferredColorScheme=0")
    assert noted(dom, "screen") == [20, 24, 28, 255] and noted(dom, "print") == [255, 255, 255, 255]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_plays_pauses_and_moves_without_console_messages(ravine, tmp_path, width):
    page = tmp_path / "race.html"
    text = ravine.save(page).read_text(encoding="utf-8")
    page.write_text(text.replace("<head>", f"<head>{FRAMES}", 1), encoding="utf-8")
    dom, console = browse(page, tmp_path, PROBE, f"--window-size={width},900")
    assert console == []
    seen = noted(dom, "seen")
    assert seen["moving"], seen
    assert seen["label"] == "Pause" and seen["stopped"] == "Play"
    assert seen["step"] == 200 and seen["now"] == "step 200 of 200"
    assert float(seen["value"]) == pytest.approx(ravine.runs[0].values[200], rel=1e-2)
    assert seen["none"] < seen["all"] / 3 and seen["hidden"] < seen["all"] / 3 and seen["pressed"] == "false"
    assert seen["wide"] <= 0


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_both_pictures(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = fallline("race", "saddle", "--optimizers", "sgd,momentum", "--lr", "0.02", "--steps", "300")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines() if line.startswith(("sgd", "momentum"))]
    assert [row[:3] for row in rows] == [["momentum", "0.02", "64"], ["sgd", "0.02", "265"]]
    assert (tmp_path / "fallline-runs" / "race-saddle.html").exists()
    assert (tmp_path / "fallline-runs" / "race-saddle.svg").exists()


def test_the_command_says_what_is_wrong(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = fallline("race", "hill")
    assert code == 2 and "got 'hill'; ravine is a good start" in err
    code, _, err = fallline("race", "ravine", "--out", "race.gif")
    assert code == 2 and "--out: must end in one of .html" in err
    assert list(tmp_path.iterdir()) == []
