"""A Ray cluster of two nodes: the numbers of one process, whatever happens to its workers and nodes."""

import importlib
import importlib.util
import os
import socket
import sys
from dataclasses import replace

import pytest

import fallline as fl
from fallline.errors import ArgumentError, MissingExtraError, StudyError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.spec import Spec
from fallline.lab.executors import count_workers, make_executor
from fallline.lab.executors.ray import Worker
from fallline.lab.provenance.manifest import versions
from fallline.lab.search.trials import tune
from support import scripts
from support.killing import FRAIL

TRIAL = tune(Spec("digits", 40, make_arms(["adam"], ["cosine"]), 1, 2), {})[0][0]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='no cluster is tried: pip install "fallline[ray]" for these tests'
)


def executor(folder, address, **options):
    return make_executor(folder, **{"jobs": None, "shard": None, "ray": address, "checkpoint_every": None, **options})


def test_without_ray_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtraError, match=r'^ray: --ray needs the package ray; .*pip install "fallline\[lab,ray\]"$'
    ):
        executor(tmp_path, "auto")


@pytest.mark.parametrize(("options", "other"), [({"shard": "1/2"}, "shard='1/2'"), ({"jobs": 0}, "jobs=0")])
def test_a_cluster_goes_with_no_other_place_to_run(tmp_path, options, other):
    with pytest.raises(
        ArgumentError, match=f"^ray: must be given without shard and jobs=0, got {other}.* too; leave one of them out$"
    ):
        executor(tmp_path / "study", "auto", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_planned_for_counts_the_workers_of_the_place(monkeypatch):
    """A cluster's size is asked; a process by itself is one worker; shards are as many times as many."""

    class Ray:
        started, ended = [], []
        is_initialized = staticmethod(lambda: False)
        init = staticmethod(lambda address, **options: Ray.started.append(address))
        shutdown = staticmethod(lambda: Ray.ended.append(True))
        nodes = staticmethod(lambda: [{"Alive": n < 2, "Resources": {"CPU": 12.0, "GPU": n + 1.0}} for n in range(3)])

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    nowhere = {"jobs": None, "shard": None, "ray": None}
    assert count_workers(**{**nowhere, "ray": "auto"}) == 24
    assert count_workers(**{**nowhere, "ray": "auto"}, device="cuda:0") == 3
    assert count_workers(**{**nowhere, "ray": "auto"}, ray_resources="CPU=8") == 2  # no worker uses two nodes
    assert count_workers(**{**nowhere, "ray": "auto"}, ray_resources="CPU=3,GPU=1", device="cuda:0") == 3
    assert (Ray.started, Ray.ended) == (["auto"] * 4, [True] * 4)
    with pytest.raises(
        ArgumentError, match=r"^ray_resources: a trial must fit on a node .*, got CPU=13, which no node"
    ):
        count_workers(**{**nowhere, "ray": "auto"}, ray_resources="CPU=13")
    assert count_workers(**{**nowhere, "ray": "auto", "jobs": 4}) == 4
    assert count_workers(**nowhere) == 6
    assert count_workers(**nowhere, device="cuda:0") == 1
    assert count_workers(**{**nowhere, "jobs": 0}) == 1
    assert count_workers(**{**nowhere, "jobs": 2, "shard": "3/5"}) == 10


@pytest.mark.parametrize(
    ("ray", "text", "words"),
    [
        ("auto", "CPU", r"^ray_resources: must be NAME=AMOUNT,NAME=AMOUNT, got 'CPU'; CPU=4,GPU=1 is four"),
        ("auto", "CPU=-1", "got 'CPU=-1'"),
        (None, "CPU=4", r"^ray_resources: must be given with ray, got 'CPU=4' alone; leave it out$"),
    ],
)
def test_resources_that_cannot_be_used(tmp_path, ray, text, words):
    with pytest.raises(ArgumentError, match=words):
        executor(tmp_path, ray, ray_resources=text)


@needs_ray
def test_an_address_where_nothing_listens_is_told_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    said = f"^ray: must be the address of a running Ray cluster, got '{address}' \\(.*refused\\); `ray start --head`"
    with pytest.raises(ArgumentError, match=said), executor(tmp_path, address):
        pass


def test_a_node_with_other_versions_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = Worker(str(tmp_path), None)
    assert worker.begin(str(tmp_path), {}, versions()) is None
    error = worker.begin(str(tmp_path / "not there"), {}, {**versions(), "torch": "1.0"})
    assert isinstance(error, StudyError) and " instead of 1.0 on " in str(error)


def test_a_node_with_another_file_or_none_is_told(tmp_path):
    (tmp_path / "mine.py").write_text("other = 1")
    for name in ("mine.py", "none.py"):
        error = Worker(str(tmp_path), None).run(replace(TRIAL, sources={f"{tmp_path}/{name}": "0123"}))
        assert isinstance(error, StudyError) and f"{name} is missing on " in str(error)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a core each, at two addresses of the loopback; of 127.0.0.1, Ray makes the machine's own address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    head = {**size, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.second = found.add_node(**size, node_ip_address="127.0.0.3")
    yield found
    found.shutdown()


@needs_ray
@pytest.mark.slow
def test_commands_and_functions_run_in_workers_of_the_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "command").mkdir()
    (tmp_path / "function").mkdir()
    shown = scripts.PRETEND + "print('worker', os.getppid())"
    command = scripts.write_script(tmp_path / "command", shown) + " --optimizer {optimizer} --lr {lr} --seed {seed}"
    scripts.write_script(tmp_path / "function", scripts.TRIAL)
    small = {"optimizers": ["adamw", "lion"], "trials": 1, "seeds": 2}
    for name, task in (("command", {"command": command}), ("function", {"task": "function/train.py:train"})):
        fl.compare(**task, **small, ray=cluster.address, ray_resources="CPU=1", out=f"ray-{name}")
        fl.compare(**task, **small, jobs=1, out=f"local-{name}")
        tables = [tmp_path / f"{place}-{name}" / "results.csv" for place in ("ray", "local")]
        assert tables[0].read_bytes() == tables[1].read_bytes()
    outputs = [path.read_text() for path in (tmp_path / "ray-command").glob("trials/*/output.txt")]
    workers = {text.split("worker ")[1].split()[0] for text in outputs}
    assert workers and str(os.getpid()) not in workers
    with pytest.raises(ArgumentError, match=r"^devices: must be given without ray"):
        fl.compare(command=command, **small, ray=cluster.address, devices=("cuda:0",), out="refused")
    with pytest.raises(ArgumentError, match=r"got CPU=2, which no node has"):
        fl.compare(command=command, **small, ray=cluster.address, ray_resources="CPU=2", out="refused")
    assert not importlib.import_module("ray").is_initialized()


@needs_ray
@pytest.mark.slow
def test_a_worker_and_a_node_are_lost_and_no_byte_changes(cluster, tmp_path):
    """The task kills its worker once, in mid-trial; after the first confirmation a node goes."""
    (tmp_path / "mine.py").write_text(FRAIL)
    study = {"optimizers": ["momentum", "adam"], "steps": 400, "trials": 4, "seeds": 4}
    study["settings"] = {"marker": str(tmp_path / "killed")}
    (tmp_path / "conductor").write_text(str(os.getpid()))
    done = []

    def lose_a_node(trial, outcome):
        done.append(trial.id)
        if trial.stage == "confirm" and cluster.second is not None:
            node, cluster.second = cluster.second, None
            cluster.remove_node(node, allow_graceful=False)

    task = f"{tmp_path / 'mine.py'}:Frail"
    assert count_workers(jobs=None, shard=None, ray=cluster.address) == 2
    fl.compare(task, ray=cluster.address, out=tmp_path / "ray", callbacks=[lose_a_node], **study)
    assert (tmp_path / "killed").read_text() == "15"
    workers = {*(tmp_path / "pids").read_text().split()} - {str(os.getpid())}
    assert len(workers) >= 3  # two workers, and one in the place of the killed one
    fl.compare(task, jobs=1, out=tmp_path / "local", **study)
    assert (tmp_path / "ray/results.csv").read_bytes() == (tmp_path / "local/results.csv").read_bytes()
    assert len(done) == len(set(done)) == len(list((tmp_path / "ray/trials").iterdir()))
    assert not list((tmp_path / "ray").rglob(".draft*"))
