"""Kernels are compiled once, found again by later processes, and never stale; halves convert exactly."""

import contextlib
import copy
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fallline import SGD, AdamW
from fallline.backends.fused import bucket as fused
from fallline.backends.fused import codegen as kernels
from fallline.backends.fused import openmp as threads
from fallline.backends.ir import trace
from fallline.errors import CacheWarning
from fallline.optimizers import OPTIMIZERS
from fallline.rules.update import update_for
from support.processes import files, in_new_process, in_new_processes, step_file, step_named, step_two_kernels_warned
from support.variants import CASES, distance, parameter, same_bits, set_grads, train

MINE = """
from fallline.core.optimizer import Optimizer
from fallline.rules.rule import rule

@rule(state={}, ranges={}, formula="", source="")
def mine(param, grad, *, lr):
    return (param - lr * FACTOR,)

class Mine(Optimizer):
    rule = mine

    def __init__(self, params, lr=0.5, weight_decay=0.0, **options):
        super().__init__(params, lr=lr, weight_decay=weight_decay, **options)
"""


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """Let kernels of this process be compiled anew, into an empty folder."""
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / "cache"))
    kernels.compile_update.cache_clear()
    yield tmp_path / "cache"
    kernels.compile_update.cache_clear()


@pytest.fixture(params=["PyTorch's threads", "Python's threads"])
def always_parallel(request, monkeypatch):
    if request.param == "Python's threads":
        monkeypatch.setattr(threads, "_parallel_region", lambda: None)
    elif sys.platform != "linux":
        # Elsewhere PyTorch's OpenMP library has no GOMP_parallel, and the kernels run on Python's threads alone.
        pytest.skip("PyTorch's threads can be called on Linux only")
    else:
        assert threads._parallel_region() is not None
    number = torch.get_num_threads()
    monkeypatch.setattr(fused, "PARALLEL", 0)
    monkeypatch.setattr(fused, "CHUNK", 256)
    monkeypatch.setattr(fused, "SHARE", 128)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(number)


def test_a_second_process_loads_the_kernel_from_disk(tmp_path):
    first = in_new_process(step_named, "adam", tmp_path)
    written = files(tmp_path)
    second = in_new_process(step_named, "adam", tmp_path)
    assert (first["loaded"], first["compiled"]) == (0, 1)
    assert (second["loaded"], second["compiled"]) == (1, 0)
    assert first["values"] == second["values"]
    assert files(tmp_path) == written


@pytest.mark.slow
def test_an_edited_rule_is_what_the_next_process_runs(tmp_path):
    rule, cache = tmp_path / "mine.py", tmp_path / "cache"
    results = []
    for factor in ("grad", "(grad * grad)", "grad", "(2 * grad)", "(lr * grad)"):
        rule.write_text(MINE.replace("FACTOR", factor))
        os.utime(rule, (1, 1))  # an edit may fall into the same second
        results.append(in_new_process(step_file, rule, cache))
    grads = np.array([[0.5, 1.0, -1.0], [1.0, 1.0, 1.0]])
    sums = [g.sum(axis=0) for g in (grads, grads**2, grads, 2 * grads, 0.5 * grads)]
    expected = [(np.array([1.0, -2.0, 3.0]) - 0.5 * s).tolist() for s in sums]
    assert [result["values"] for result in results] == expected
    assert [result["loaded"] for result in results] == [0, 0, 1, 0, 0]


def test_an_edited_bias_correction_takes_effect_with_a_warm_cache():
    """It is computed once a step, outside the kernel, whose text may therefore stay the same."""
    cls = OPTIMIZERS["adam"]
    source = inspect.getsource(cls.rule.function)
    edited = source[source.index("def ") :].replace("1 - beta1**step", "1 - beta1 ** (2 * step)")
    assert edited.count("2 * step") == 1
    namespace = dict(vars(inspect.getmodule(cls.rule.function)))
    exec(edited, namespace)

    class Edited(cls):
        rule = replace(cls.rule, function=namespace["adam"])

    original, fast, slow = cls([parameter(50)]), Edited([parameter(50)]), Edited([parameter(50)], backend="reference")
    before, after, standard = (train(opt, range(3)) for opt in (original, fast, slow))
    assert distance(after, standard) < 1e-6  # float32
    assert distance(before, after) > 1e-4


def test_every_variant_has_a_kernel_of_its_own_text():
    """Text and scalars together; decoupled and independent decay differ in a scalar alone."""
    kinds = {}
    for cls, name, options in CASES:
        update = update_for(cls.rule, cls([parameter(1)], **options).param_groups[0])
        text = kernels.kernel_source(update, ("float32",) * (2 + len(update.state)))
        assert kinds.setdefault((text, tuple(sweep.scalars for sweep in trace(update).passes)), update) == update, name
        # Any other flag would let the compiler assume that there is no NaN; only norms may be summed in another order.
        flags = re.findall(r"fastmath=(\{.*?\})[^\n]*\ndef (\w+)", text)
        assert flags[-1] == ('{"contract"}', "update")
        assert all(flag == '{"contract", "reassoc"}' and name.startswith("sum") for flag, name in flags[:-1])


def test_a_kernel_of_two_arrays_is_compiled_to_narrow_vectors():
    """llvmlite is given an attribute that it does not know; should it refuse, plain SGD is a sixth slower."""
    update = update_for(SGD.rule, SGD([parameter(1)]).param_groups[0])
    namespace = {}
    exec(kernels.kernel_source(update, ("float32", "float32")).replace("cache=True", "cache=False"), namespace)
    text = namespace["update"].inspect_llvm()
    assert '"prefer-vector-width"="128"' in text and "x float>" in text


def test_random_bits_are_computed_in_vectors_of_32_bits():
    """LLVM does an exclusive or before it cuts the index to 32 bits: AdamW with bfloat16 state took a third longer."""
    update = update_for(AdamW.rule, AdamW([parameter(1)], state_dtype=torch.bfloat16).param_groups[0])
    namespace = {}
    text = kernels.kernel_source(update, ("float32", "float32", "bfloat16", "bfloat16"))
    exec(text.replace("cache=True", "cache=False"), namespace)
    text = namespace["update"].inspect_llvm()
    assert "x float>" in text and not re.search(r"trunc <\d+ x i64>", text)


@pytest.mark.parametrize("sizes", [[1], [5] * 100, [300, 1, 1, 700, 64, 64], [256, 64, 64, 64]])
def test_a_ticket_stands_for_neighbours_that_are_small(monkeypatch, sizes):
    monkeypatch.setattr(fused, "CHUNK", 256)
    monkeypatch.setattr(fused, "SHARE", 128)
    opt = SGD([parameter(size, seed=n) for n, size in enumerate(sizes)], lr=0.1)
    train(opt, [0])
    _, work, shares = opt._plan.buckets[0]._tables
    assert [w for first, end in shares for w in range(first, end)] == list(range(len(work)))
    elements = [work[first:end, 2].sum() for first, end in shares]
    assert all(a + b > 128 for a, b in itertools.pairwise(elements[:-1]))  # no more tickets than need be
    assert all(end - first == 1 or count < 128 + 256 for (first, end), count in zip(shares, elements, strict=True))


@pytest.mark.slow
def test_processes_that_compile_at_once_agree(tmp_path):
    results = in_new_processes(4, step_named, "rmsprop", tmp_path)
    assert len({tuple(result["values"]) for result in results}) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    assert in_new_process(step_named, "rmsprop", tmp_path)["loaded"] == 1


@pytest.mark.slow
def test_an_unwritable_cache_warns_once_and_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "x"
    results, warned = in_new_process(step_two_kernels_warned, folder)
    right = [in_new_process(step_named, name, tmp_path / "cache") for name in ("sgd", "adam")]
    assert [r["values"] for r in results] == [r["values"] for r in right]
    assert [category for category, _ in warned] == ["CacheWarning"]
    assert str(folder) in warned[0][1] and "FALLLINE_CACHE_DIR" in warned[0][1]


@pytest.mark.parametrize("suffix", ["py", "nbi", "nbc"])
@pytest.mark.parametrize("damage", [lambda content: content[:50], lambda content: b"x = 1\n" * 99], ids=["cut", "junk"])
def test_a_damaged_cache_is_mended_or_done_without(fresh_cache, suffix, damage):
    """The disk was full, or somebody edited the file."""
    right = train(OPTIMIZERS["sgd"]([parameter(9)], maximize=True), range(3))
    for path in fresh_cache.rglob(f"*.{suffix}"):
        path.write_bytes(damage(path.read_bytes()))
    kernels.compile_update.cache_clear()
    with contextlib.nullcontext() if suffix == "py" else pytest.warns(CacheWarning, match="must be intact"):
        assert same_bits(train(OPTIMIZERS["sgd"]([parameter(9)], maximize=True), range(3)), right)


@pytest.mark.slow
def test_a_process_started_anew_loads_the_kernel_from_disk(tmp_path):
    """The same without the fork server: another interpreter, and another order of hashes."""
    in_new_process(step_named, "adam", tmp_path)
    code = f"from support.processes import *; print(step_named('adam', {str(tmp_path)!r})['loaded'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_forked_after_a_parallel_step_steps_right(always_parallel):
    opt = OPTIMIZERS["adamw"]([parameter(5000)])
    train(opt, range(3))
    twin = copy.deepcopy(opt)
    (expected,) = train(twin, [3])
    set_grads(opt.param_groups[0]["params"], 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks in threaded processes
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)  # a deadlock must end
            opt.step()
            # NumPy, because torch's own parallel operations hang in such a child.
            same = np.array_equal(opt.param_groups[0]["params"][0].detach().numpy(), expected.numpy())
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    opt.step()  # and the parent goes on
    assert same_bits([opt.param_groups[0]["params"][0].detach()], [expected])


FORKED = """
import os, signal, torch, fallline
big = torch.ones(1 << 22)
big.add_(1)  # PyTorch's threads are the parent's
param = torch.nn.Parameter(torch.zeros(1 << 22))
param.grad = torch.ones_like(param)
if (child := os.fork()) == 0:
    signal.alarm(60)  # a deadlock must end
    fallline.SGD([param], lr=1.0).step()
    os._exit(0 if (param.detach().numpy() == -1).all() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_forked_before_the_first_step_steps_right():
    """Its parent's threads are not its own, though fallline had not used them yet."""
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=120).returncode == 0


def test_two_threads_may_step_two_optimizers_at_once(always_parallel):
    def run(name, results):
        opt = OPTIMIZERS[name]([parameter(3000, seed=1), parameter(7)], lr=0.01)
        set_grads(opt.param_groups[0]["params"], 0)
        for _ in range(200):
            opt.step()
        results[name] = [p.detach() for p in opt.param_groups[0]["params"]]

    alone, together = {}, {}
    for name in ("adam", "sgd"):
        run(name, alone)
    both = [threading.Thread(target=run, args=(name, together)) for name in alone]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert all(same_bits(alone[name], together[name]) for name in alone)


def test_two_threads_may_compile_the_same_kernel_at_once(fresh_cache):
    results = []
    barrier = threading.Barrier(2)

    def run():
        barrier.wait()
        results.append(train(OPTIMIZERS["sgd"]([parameter(9)], momentum=0.5), range(3)))

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(results) == 2 and same_bits(*results)
    assert len(list(fresh_cache.glob("*.py"))) == 1
