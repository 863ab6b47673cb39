"""CIFAR-10: an archive is read whole and split without loss, and a damaged one is said in one sentence."""

import collections
import itertools
import random

import pytest
import torch

from fallline.cli import app
from fallline.cli.options import Effort
from fallline.errors import StudyError
from fallline.lab.study import load
from fallline.lab.tasks import cifar10 as cifar
from fallline.lab.tasks import get_task
from support.task_data import cifar_parts, fixed, members, write_archive


def test_an_archive_of_any_size_is_split_by_share_without_loss(cifar_archive):
    task = get_task("cifar10")
    loaded = {split: task.load(split) for split in ("train", "val", "test")}
    assert {split: len(labels) for split, (_, labels) in loaded.items()} == {"train": 270, "val": 30, "test": 50}
    written = cifar_parts()
    raw = [written[f"data_batch_{i}.bin"][k * 3073 : (k + 1) * 3073] for i in range(1, 6) for k in range(60)]
    assert members(loaded["train"][0]) + members(loaded["val"][0]) == collections.Counter(r[1:] for r in raw)
    images, labels = loaded["test"]
    record = written["test_batch.bin"][3073 * 7 : 3073 * 8]
    assert labels[7] == record[0]
    for channel, row, column in [(0, 0, 0), (1, 3, 5), (2, 31, 31), (0, 0, 31)]:
        assert images[7, channel, row, column] == record[1 + 1024 * channel + 32 * row + column]


def test_the_unpacked_folder_gives_the_same_data(cifar_archive, data_folder):
    digest = get_task("cifar10").data_digest()
    cifar_archive.unlink()
    for place in (data_folder / "cifar-10-batches-bin", data_folder / "cifar10" / "cifar-10-batches-bin"):
        place.mkdir(parents=True)
        for name, data in cifar_parts().items():
            (place / name).write_bytes(data)
        assert get_task("cifar10").data_digest() == digest
        assert get_task("cifar10").data_files()[-1] == place / "test_batch.bin"
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def test_other_data_have_another_digest(cifar_archive, data_folder):
    digest = get_task("cifar10").data_digest()
    (data_folder / "cifar10").mkdir()
    write_archive(data_folder / "cifar10" / "cifar-10-binary.tar.gz", cifar_parts(seed=100))
    assert get_task("cifar10-vit").data_digest() != digest


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:50_000]), "ended before"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "not a gzip file"),
        (lambda path: write_archive(path, {**cifar_parts(), "data_batch_3.bin": b"\0" * 3000}), "3000"),
        (lambda path: write_archive(path, {**cifar_parts(), "data_batch_2.bin": b"\x0b" + bytes(3072)}), "a label 11"),
        (lambda path: write_archive(path, {"data_batch_1.bin": bytes(3073)}), "test files of no bytes"),
    ],
)
def test_a_damaged_archive_is_one_sentence(cifar_archive, damage, said):
    damage(cifar_archive)
    with pytest.raises(StudyError) as error:
        get_task("cifar10").load("train")
    text = str(error.value)
    assert text.startswith(f"task cifar10: {cifar_archive} must hold") and said in text and "\n" not in text
    assert cifar.DATASET.remotes[0].url in text


def test_nothing_is_unpacked_whatever_an_archive_says(data_folder):
    inner = data_folder / "one" / "two"
    inner.mkdir(parents=True)
    write_archive(inner / "cifar-10-binary.tar.gz", cifar_parts(), folder="../../outside/")
    before = sorted(data_folder.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FALLLINE_DATA", str(inner))
        assert len(get_task("cifar10").load("test")[1]) == 50
    assert sorted(data_folder.rglob("*")) == before


def test_an_augmented_image_is_a_crop_of_the_padded_image_or_of_its_mirror():
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=fixed())
    task = get_task("cifar10")
    changed = task.augment(images, fixed(1))
    assert torch.equal(changed, task.augment(images, fixed(1)))
    found = collections.Counter()
    for image, result in zip(images, changed, strict=True):
        for mirrored, down, right in itertools.product((False, True), range(9), range(9)):
            padded = torch.zeros(3, 40, 40, dtype=torch.uint8)
            padded[:, 4:36, 4:36] = image.flip(2) if mirrored else image
            crop = padded[:, down : down + 32, right : right + 32]
            # A mirror before or after the crop gives the same set of images.
            if torch.equal(result, crop):
                found[mirrored] += 1
                found["shift", down, right] += 1
    assert found[False] + found[True] == 40 and min(found[False], found[True]) > 10
    assert len(found) > 25  # many different shifts


def test_prepared_images_have_channels_of_mean_0_and_variance_1():
    images = torch.tensor([[[[0, 255]], [[0, 255]], [[0, 255]]]], dtype=torch.uint8)
    black, white = get_task("cifar10").prepare(images)[0, :, 0].T
    torch.testing.assert_close(black, torch.tensor([-0.4914 / 0.2470, -0.4822 / 0.2435, -0.4465 / 0.2616]))
    torch.testing.assert_close(white - black, torch.tensor([1 / 0.2470, 1 / 0.2435, 1 / 0.2616]))


@pytest.mark.parametrize(("name", "parameters"), [("cifar10", 78_042), ("cifar10-vit", 459_370)])
def test_the_networks_have_the_size_that_is_written_about_them(name, parameters):
    model = get_task(name).model()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def coloured(count, seed):
    """Records of noise in which every class has a brightness of its own, so that there is something to learn."""
    draw = random.Random(seed)
    labels = [draw.randrange(10) for _ in range(count)]
    return b"".join(bytes([label]) + bytes(24 * label + b // 8 for b in draw.randbytes(3072)) for label in labels)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "arms"), [("cifar10", 3), ("cifar10-vit", 2)])
def test_the_exercises_run_on_an_archive_in_the_format(task, arms, data_folder, monkeypatch, capsys):
    """Exercise 1 with its own task, and exercise 3 with the ViT, as they would run on the official archive."""
    monkeypatch.setattr("fallline.cli.options.QUICK", Effort(trials=1, searches=1, seeds=2))
    parts = {f"data_batch_{i}.bin": coloured(60, i) for i in range(1, 6)}
    write_archive(data_folder / "cifar-10-binary.tar.gz", {**parts, "test_batch.bin": coloured(50, 0)})
    words = ["1"] if task == "cifar10" else ["3", "--task", task]
    out = data_folder / "study"
    words += ["--quick", "--steps", "20", "-j", "2", "--data-dir", str(data_folder), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["fallline", "exercise", *words])
    assert app.run() == 0
    study = load(out)
    assert len(study.arms) == arms and "spikes by seed" in capsys.readouterr().out
    assert (out / "report.html").stat().st_size > 500_000
