"""Fashion-MNIST: what its files hold is what is trained on, and damage is said in one sentence."""

import collections
import gzip
from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.tasks import get_task
from support.task_data import fixed, members, write_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_fashion_mnist_reads_the_users_folder(clothes, data_folder):
    task = get_task("fashion-mnist")
    images, labels = task.load("test")
    assert labels.tolist() == list(clothes["t10k"][1])
    assert images[3, 0, 2, 5] == clothes["t10k"][0][3 * 784 + 2 * 28 + 5]
    kept, held_out = task.load("train"), task.load("val")
    assert (len(kept[1]), len(held_out[1])) == (87, 3)
    raw = clothes["train"][0]
    assert members(kept[0]) + members(held_out[0]) == collections.Counter(
        raw[i : i + 784] for i in range(0, len(raw), 784)
    )
    assert task.data_files()[0] == data_folder / "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b"not gzip"),
        lambda path: write_idx(path, (90, 28, 28), bytes(784 * 89)),
        lambda path: write_idx(path, (0, 28, 28), b""),
        lambda path: write_idx(path, (90, 28, 28), bytes(784 * 90), head=b"\0\0\x0d"),  # floats
        lambda path: path.write_bytes(gzip.compress(b"\0")),
    ],
)
def test_a_damaged_file_of_fashion_mnist_is_one_sentence(clothes, data_folder, damage):
    path = data_folder / "train-images-idx3-ubyte.gz"
    damage(path)
    with pytest.raises(StudyError, match="must be a complete gzipped IDX file, got") as error:
        get_task("fashion-mnist").load("train")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_images_and_labels_of_different_data_are_refused(clothes, data_folder):
    write_idx(data_folder / "t10k-labels-idx1-ubyte.gz", (19,), bytes(19))
    with pytest.raises(StudyError, match="one label each"):
        get_task("fashion-mnist").load("test")


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debians_fashion_mnist(data_folder):
    task = get_task("fashion-mnist")
    assert [len(task.load(split)[1]) for split in ("train", "val", "test")] == [58_000, 2_000, 10_000]
    prepared = task.prepare(task.load("train")[0])
    assert abs(float(prepared.mean())) < 1e-3 and abs(float(prepared.std()) - 1) < 1e-3
    # As its authors say: 7,000 images of each of ten classes.
    labels = torch.cat([task.load(split)[1] for split in ("train", "val", "test")])
    assert torch.bincount(labels).tolist() == [7_000] * 10
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == 55_594
    optimizer = fl.Adam(model.parameters(), lr=3e-3)
    batches = task.batches("train", fixed())
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, next(batches)).backward()
        optimizer.step()
    assert task.evaluate(model, next(task.batches("test", fixed())))["accuracy"] > 0.7
