"""The table of cases, gathered from every oracle in this folder, and the run of one."""

import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from oracles import options, problem
from oracles.golden import Golden
from oracles.problem import Array, Case

# Every other module is an oracle: it has `update`, `LR` and `CASES`, and `TORCH` where torch has the optimizer.
_NOT_ORACLES = {"blocks", "cases", "formula", "golden", "make", "options", "problem", "rounding", "sam", "torch_twin"}


def _discover() -> dict[str, ModuleType]:
    found = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return {name: import_module(f"oracles.{name}") for name in found if name not in _NOT_ORACLES}


ORACLES = _discover()
CASES: dict[str, Case] = {case.name: case for oracle in ORACLES.values() for case in oracle.CASES}
if len(CASES) != sum(len(oracle.CASES) for oracle in ORACLES.values()):
    raise ValueError("oracles: case names must be unique, and two cases share one; rename it")


def oracle_of(case: Case) -> ModuleType:
    """Return the oracle module of the case's optimizer."""
    return next(oracle for oracle in ORACLES.values() if any(c.optimizer == case.optimizer for c in oracle.CASES))


def comparable(oracle: ModuleType, state: dict[str, Array]) -> dict[str, Array]:
    """Return what of the state of a parameter is recorded: all, unless the oracle has a function that chooses."""
    return getattr(oracle, "comparable", dict)(state)  # type: ignore[no-any-return]


def run(case: Case) -> Golden:
    """Return the record of a case run by its oracle."""
    oracle = oracle_of(case)
    config, around = options.split(case.config)
    lr0 = config.pop("lr", oracle.LR)
    params = problem.initial()
    state: dict[str, dict[str, Array]] = {name: {} for name in params}
    trajectory: dict[int, dict[str, Array]] = {}
    group: dict[str, float] = {}
    shared = {"group": group} if hasattr(oracle, "gather") else {}
    for step in range(1, problem.STEPS + 1):
        lr = lr0 if case.lrs is None else case.lrs[step - 1]
        grads = options.clipped(problem.gradients(step, case.late), around)
        if shared:  # numbers that depend on all parameters
            oracle.gather(params, grads, state, group, lr, **config)
        for name, grad in grads.items():
            if grad is not None:
                # np.asarray: NumPy turns the result of 0-d arithmetic into a scalar.
                new = np.asarray(
                    options.stepped(oracle.update, params[name], grad, state[name], lr, lr0, config | shared, around)
                )
                options.average(params[name], new, state[name], around)
                params[name] = new
        if step in problem.RECORDED:
            trajectory[step] = dict(params)
    state = {name: comparable(oracle, kept) for name, kept in state.items()}
    return Golden(case, trajectory, state, (f"oracles.{oracle.__name__.rpartition('.')[2]}",))
