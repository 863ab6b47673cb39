"""Own splits per confirmation seed: drawn alike for all arms, from the pool alone, and kept with their test items."""

import itertools

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError
from fallline.lab import load
from fallline.lab.analysis.variance import RandomSplitMeans, RandomSplits
from fallline.lab.tasks import TASKS, Digits, get_task
from support.task_data import fixed

FIXED = ("fashion-mnist", "cifar10", "cifar10-resnet", "cifar10-vit")  # tasks with an official test set

OWN = '''
import torch

import fallline


class Line:
    """A noisy line."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(200, 3, generator=draw)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(200, generator=draw)

    def model(self):
        return torch.nn.Linear(3, 1)

    def batches(self, split, generator):
        rows = self.split_indices(len(self.x))[split]
        if split != "train":
            yield self.x[rows], self.y[rows]
        while split == "train":
            chosen = rows[torch.randint(len(rows), (16,), generator=generator)]
            yield self.x[chosen], self.y[chosen]

    def loss(self, model, batch):
        x, y = batch
        return (model(x).squeeze(1) - y).square().mean()


class WithLosses(Line):
    def losses(self, model, batch):
        x, y = batch
        return (model(x).squeeze(1) - y).square()


Mine = fallline.task(steps=40, resplit=True)(Line)
MineWithLosses = fallline.task(steps=40, resplit=True)(WithLosses)
'''


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return fl.compare("digits", ["momentum", "adam"], steps=40, trials=2, seeds=3, jobs=0, out=folder)


def test_every_seed_has_a_split_of_its_own_and_all_arms_the_same(study):
    splits = {arm: [trial.split for trial in study.confirmation_trials(arm)] for arm in study.arms}
    assert splits["momentum"] == splits["adam"] and len(set(splits["adam"])) == 3 and None not in splits["adam"]
    assert {trial.split for trial in study.trials if trial.stage == "tune"} == {None}


def test_a_twin_of_a_self_check_has_other_seeds_and_the_same_splits(tmp_path):
    spec = fl.compare("digits", ["adam@lr=0.01"], steps=20, trials=1, seeds=2, jobs=0, self_check=True, out=tmp_path)
    own, twin = (spec.confirmation_trials(arm) for arm in spec.arms)
    assert [t.split for t in own] == [t.split for t in twin]
    assert not {t.seed for t in own} & {t.seed for t in twin}


def test_the_items_of_a_run_are_those_of_its_split(study):
    """Their mean is the test loss, and their number that of the test set, in this process and read back from disk."""
    for trial, outcome in zip(study.confirmation_trials("adam"), study.confirmation("adam"), strict=True):
        items = study.store.items(trial)
        assert items.shape == (360,) and len(set(items["example"])) == 360
        assert items["metric"].mean(dtype=float) == pytest.approx(outcome.metrics["test_loss"], rel=1e-5)
        sizes = {"pool": 1797, "train": 1077, "val": 360, "test": 360}
        assert outcome.test_set == {"items": 360, "kind": "example", **sizes}
    design = study.results["adam"].comparison.design
    assert isinstance(design, RandomSplits)
    ours = [set(row.tolist()) for row in design.examples]
    chosen = [
        set(Digits(split_seed=t.split).split_indices(1797, val=360, test=360)["test"].tolist())
        for t in study.confirmation_trials("adam")
    ]
    assert [len(ours[0] & other) for other in ours] == [len(chosen[0] & other) for other in chosen]  # told by content
    assert load(study.store.folder).results == study.results


@pytest.mark.parametrize("name", ["digits", "digits-cnn", "text", "text-post"])
def test_a_split_divides_the_pool_and_another_seed_divides_it_otherwise(name):
    one, other = (get_task(name, split_seed=seed) for seed in (1, 2))
    parts = [task.split_indices(1000, val=0.2, test=0.2) for task in (one, other)]
    for part in parts:
        assert sorted(torch.cat(list(part.values())).tolist()) == list(range(1000))
    assert not torch.equal(parts[0]["test"], parts[1]["test"])
    first, second = (next(task.batches("test", fixed())) for task in (one, other))
    assert not torch.equal(first[0], second[0])
    assert TASKS[name].resplit


def test_a_task_with_an_official_test_set_keeps_it():
    assert [name for name in TASKS if not TASKS[name].resplit] == list(FIXED)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in FIXED])
def test_the_losses_of_every_task_average_to_its_metrics(name):
    task = get_task(name)
    torch.manual_seed(0)
    model = task.model().eval()
    with torch.no_grad():
        for batch in itertools.islice(task.batches("test", fixed()), 2):
            whole = task.evaluate(model, batch)
            means = {key: values.mean().item() for key, values in task.losses(model, batch).items()}
            assert means == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("kind", "design"), [("Mine", RandomSplitMeans), ("MineWithLosses", RandomSplits)])
def test_a_task_of_the_users_splits_its_pool_anew(tmp_path, kind, design):
    path = tmp_path / "line.py"
    path.write_text(OWN, encoding="utf-8")
    study = fl.compare(
        f"{path}:{kind}", ["sgd@lr=0.1", "adam@lr=0.1"], steps=40, trials=1, seeds=4, jobs=0, out=tmp_path / "s"
    )
    found = study.results["adam@lr=0.1"].comparison
    assert isinstance(found.design, design)
    if design is RandomSplitMeans:
        assert found.design.ratio == 40 / 120
    else:
        assert found.design.pool == 200
    assert "(each seed with its own split)" in str(study.results["adam@lr=0.1"])


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.0, 0.2), (5, 5), (0.2, 1000)])
def test_parts_that_would_be_empty_are_refused(val, test):
    with pytest.raises(ArgumentError, match="split_indices: train, val and test must each have an example"):
        Digits().split_indices(10, val=val, test=test)
