"""Run a function in a new process, cheaply: forked from a server that has imported the libraries and no more."""

import importlib.util
import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

_PRELOAD = [
    "pytest",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "fallline.backends.fused.bucket",
    "support.numba_ready",
]  # torch._dynamo: any optimizer needs it
_barrier = None


def in_new_processes(count, function, *args):
    """Return what `count` new processes, started together, returned for `function(*args)`."""
    context = prepared_context()
    with ProcessPoolExecutor(count, context, _set_barrier, (context.Barrier(count),)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(function, *args) for _ in range(count)]]


def prepared_context():
    """Return the way to start such processes."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_PRELOAD)
        here = str(Path(__file__).parents[1])  # where the server finds support
        if here not in (paths := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
            os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, paths), here])
    return context


def in_new_process(function, *args):
    """Return what a new process returned for `function(*args)`."""
    (result,) = in_new_processes(1, function, *args)
    return result


def _set_barrier(barrier):
    global _barrier
    _barrier = barrier


def step_named(name, cache):
    """Return the parameter after two steps of a built-in optimizer, and how its kernel came to be."""
    os.environ["FALLLINE_CACHE_DIR"] = str(cache)
    from fallline.optimizers import create_optimizer

    return _two_steps(lambda params: create_optimizer(name, params, lr=0.1))


def step_file(path, cache):
    """Return the same for the class `Mine` in a file."""
    os.environ["FALLLINE_CACHE_DIR"] = str(cache)
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _two_steps(module.Mine)


def step_two_kernels_warned(cache):
    """Return the parameters after a step of two optimizers each, and the warnings given."""
    os.environ["FALLLINE_CACHE_DIR"] = str(cache)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        results = [step_named(name, cache) for name in ("sgd", "adam")]
    return results, [(w.category.__name__, str(w.message)) for w in caught]


def _two_steps(build):
    import torch

    param = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = build([param])
    if _barrier is not None:
        _barrier.wait()  # so that processes meet at the compilation
    for grad in ([0.5, 1.0, -1.0], [1.0, 1.0, 1.0]):
        param.grad = torch.tensor(grad)
        optimizer.step()
    loaded = optimizer._plan.buckets[0]._kernels[-1].cache_hits
    return {
        "values": param.detach().tolist(),
        "loaded": loaded,
        "compiled": 1 - loaded,
    }


def files(folder):
    """Return the files of a folder with their contents."""
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
