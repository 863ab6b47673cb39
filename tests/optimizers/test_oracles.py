"""The oracles agree with the goldens on disk, with torch, and with what they say about themselves."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles import cases, formula, golden, make, problem, rmsprop, torch_twin

EVERY_CASE = pytest.mark.parametrize("case", cases.CASES.values(), ids=lambda case: case.name)


@EVERY_CASE
def test_golden_is_what_the_oracle_computes(case):
    stored = golden.load(case.name)
    assert stored.case == case
    assert golden.difference(cases.run(case), stored) <= make.ROUNDING


@EVERY_CASE
def test_torch_agrees_or_cannot_express_it(case):
    theirs = torch_twin.run(case, cases.oracle_of(case))
    stored = golden.load(case.name)
    assert stored.confirmed_by[1:] == (() if theirs is None else theirs.confirmed_by)
    assert theirs is None or golden.difference(stored, theirs) <= torch_twin.TOLERANCE


def test_no_golden_is_without_a_case():
    assert golden.names() == sorted(cases.CASES)


def test_readme_lists_the_goldens():
    stored = [golden.load(name) for name in cases.CASES]
    assert (golden.FOLDER / "README.md").read_text(encoding="utf-8") == make.readme(stored)


@pytest.mark.parametrize("path", sorted(Path(cases.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_oracle_imports_fallline(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            imported.add(node.module)
    assert "fallline" not in {name.partition(".")[0] for name in imported}


def test_every_option_of_a_case_changes_its_run():
    """An option without effect would leave the golden blind to it."""
    blind = set()
    for case in cases.CASES.values():
        whole = cases.run(case)
        variants = {key: replace(case, config=_without(case.config, key)) for key in case.config}
        variants.pop("ns_dtype", None)  # the oracle of Muon is exact whatever it is
        variants.pop("ema_decay", None)  # it moves no parameter; the golden holds the averages themselves
        if case.late:
            variants["late"] = replace(case, late=False)
        if case.lrs:
            variants["lrs"] = replace(case, lrs=None)
            if case.config.get("weight_decay_mode") != "independent":
                variants.pop("lr", None)  # overwritten before the first step
        blind |= {(case.name, key) for key, other in variants.items() if _moved(whole, cases.run(other)) < 1e-3}
    # With a base rate of 0 there is no decay, whatever its strength: that is what the case shows.
    assert blind == {("adamw_independent_zero_base", "weight_decay")}


def test_inputs_are_float32_numbers_and_span_five_decades():
    arrays = list(problem.initial().values())
    for step in range(1, problem.STEPS + 1):
        arrays += problem.gradients(step).values()
    for array in arrays:
        np.testing.assert_array_equal(array.astype(np.float32).astype(np.float64), array)
    grads = np.concatenate([array.ravel() for array in arrays[len(problem.SHAPES) :]])
    sizes = np.abs(grads[grads != 0])
    assert sizes.min() < 5e-4 and sizes.max() > 8
    assert 0.4 < np.mean(grads[grads != 0] > 0) < 0.6
    assert 0.05 < np.mean(grads == 0) < 0.2


def test_inputs_have_the_awkward_places():
    assert not problem.initial()["bias"].any()
    for step in range(1, problem.STEPS + 1):
        grads = problem.gradients(step, late=True)
        assert (grads[problem.LATE] is None) == (step <= 10 or 20 <= step <= 24)
        assert grads["bias"][0] == 0
        assert problem.gradients(step)["matrix"][0, 0] == 0
    assert not any(problem.gradients(step)["single"].any() for step in (1, 2, 3))


def test_inputs_are_fresh_arrays():
    for make_inputs in (problem.initial, lambda: problem.gradients(1)):
        before = make_inputs()["matrix"]
        make_inputs()["matrix"] += 1
        np.testing.assert_array_equal(make_inputs()["matrix"], before)


def test_a_late_parameter_counts_its_own_steps():
    state = golden.load("adam_late").state
    assert state["matrix"]["step"] == problem.STEPS - len(problem.LATE_STEPS) == 45
    assert state["cube"]["step"] == problem.STEPS


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_eps_is_under_the_root(centered):
    """Torch lacks this option; the first step has a closed form."""
    g, alpha, eps = np.array([0.5, -2.0, 0.0]), 0.99, 1e-3
    after = rmsprop.update(np.zeros(3), g, {}, 0.1, 0.1, eps=eps, centered=centered, eps_inside_sqrt=True)
    v = (1 - alpha) * alpha * g**2 if centered else (1 - alpha) * g**2
    np.testing.assert_allclose(after, -0.1 * g / np.sqrt(v + eps), rtol=1e-14)  # three roundings


def test_bias_correction_is_one_minus_the_power():
    assert formula.bias_correction(0.5, 3.0) == 0.875
    assert formula.bias_correction(0.0, 1.0) == 1.0
    assert formula.bias_correction(0.999, 1.0) == pytest.approx(1e-3, rel=1e-13)  # 1 - 0.999 cancels to 1e-13


def test_files_survive_the_round_trip_byte_for_byte(tmp_path):
    record = golden.load("adamw_late")
    written = golden.save(record, tmp_path)
    assert written.read_bytes() == (golden.FOLDER / written.name).read_bytes()
    assert written.stat().st_size < 20_000


def test_check_names_what_differs(tmp_path):
    first, second, gone = (golden.load(name) for name in ("sgd_default", "sgd_momentum", "sgd_late"))
    make.write([first, second, gone], tmp_path)
    assert make.complaints([first, second, gone], tmp_path) == []
    second.state["matrix"]["momentum_buffer"][0, 1] *= 1 + 1e-14
    found = make.complaints([first, second], tmp_path)
    assert [line.partition(":")[0] for line in found] == ["sgd_late", "sgd_momentum", "README.md"]
    make.write([first, second], tmp_path)
    assert golden.names(tmp_path) == ["sgd_default", "sgd_momentum"]


def _without(config, key):
    dropped = {key} | ({"nesterov", "dampening"} if key == "momentum" else set())  # they need momentum
    return {name: value for name, value in config.items() if name not in dropped}


def _moved(one, other):
    """Return how far apart the parameters, numbers near 1, get: float32 tests see about 1e-5."""
    return max(
        np.abs(one.trajectory[t][n] - other.trajectory[t][n]).max() for t in problem.RECORDED for n in problem.SHAPES
    )
