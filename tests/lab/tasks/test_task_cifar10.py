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


@pytest.mark.parametrize(("name", "shift"), [("cifar10", 2), ("cifar10-resnet", 4)])
def test_an_augmented_image_is_a_crop_of_the_image_continued_by_reflection(name, shift):
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=fixed())
    task = get_task(name)
    changed = task.augment(images, fixed(1))
    assert torch.equal(changed, task.augment(images, fixed(1)))
    found = collections.Counter()
    padded = torch.nn.functional.pad(images.double(), (shift,) * 4, mode="reflect")
    for image, result in zip(padded, changed, strict=True):
        for down, right in itertools.product(range(2 * shift + 1), repeat=2):
            if torch.equal(result, image[:, down : down + 32, right : right + 32]):
                found[down, right] += 1
    assert sum(found.values()) == 40
    assert {down for down, _ in found} == {right for _, right in found} == set(range(2 * shift + 1))


def test_every_training_image_is_mirrored_at_every_second_use(cifar_archive, monkeypatch):
    monkeypatch.setattr(cifar.CIFAR10, "augment", lambda self, images, generator: images)
    task = get_task("cifar10", batch_size=27)
    images, _ = task.load("train")
    index = {bytes(image.numpy().data): (row, False) for row, image in enumerate(images)}
    index |= {bytes(image.flip(2).contiguous().numpy().data): (row, True) for row, image in enumerate(images)}
    monkeypatch.setattr(task, "prepare", lambda images: images)
    uses = collections.defaultdict(list)
    for batch, _ in itertools.islice(task.batches("train", fixed()), 3 * len(images) // 27):
        for image in batch:
            row, mirrored = index[bytes(image.contiguous().numpy().data)]
            uses[row].append(mirrored)
    assert len(uses) == len(images)
    assert all(found in ([True, False, True], [False, True, False]) for found in uses.values())
    assert 0.4 < sum(found[0] for found in uses.values()) / len(uses) < 0.6


def test_the_first_layer_whitens_the_patches_of_training_images(cifar_archive):
    """Its outputs are uncorrelated and have variance 1, except those of directions in which patches hardly vary."""
    task = get_task("cifar10")
    images = task.prepare(task.load("train")[0])
    first = task.model()[0]
    outputs = first(images).detach().transpose(0, 1).flatten(1)[:12].double()
    torch.testing.assert_close(outputs @ outputs.T / outputs.shape[1], torch.eye(12).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(first(images)[:, 12:], -first(images)[:, :12])
    assert [name for name, _ in first.named_parameters()] == ["bias"]  # the filters are not trained


def test_prepared_images_have_channels_of_mean_0_and_variance_1():
    images = torch.tensor([[[[0, 255]], [[0, 255]], [[0, 255]]]], dtype=torch.uint8)
    black, white = get_task("cifar10").prepare(images)[0, :, 0].T
    torch.testing.assert_close(black, torch.tensor([-0.4914 / 0.2470, -0.4822 / 0.2435, -0.4465 / 0.2616]))
    torch.testing.assert_close(white - black, torch.tensor([1 / 0.2470, 1 / 0.2435, 1 / 0.2616]))


@pytest.mark.parametrize(
    ("name", "parameters"), [("cifar10", 275_160), ("cifar10-resnet", 78_042), ("cifar10-vit", 459_370)]
)
def test_the_networks_have_the_size_that_is_written_about_them(name, parameters, cifar_archive):
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
