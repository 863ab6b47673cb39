"""Text: windows of bytes, what they are split into, and the transformers that read them."""

import collections
import itertools
import math
import random
import sysconfig
from pathlib import Path

import pytest
import torch

from fallline.errors import ArgumentError
from fallline.lab.tasks import Text, get_task
from fallline.lab.tasks.networks.gru import ByteGRU
from fallline.lab.tasks.networks.transformer import Block, ByteTransformer
from support.task_data import fixed


@pytest.fixture
def prose(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "prose.txt"
    path.write_bytes(bytes(draw.choices(b"abcdefgh ", k=20_000)))
    return path


def test_windows_stay_within_their_split_and_targets_are_the_next_bytes(prose):
    task, whole = Text(text=str(prose)), prose.read_bytes()
    block = 65  # 20,000 bytes are 307 windows, too few for larger blocks
    chosen = task.split_indices(307, val=0.05, test=0.05)
    for split in ("train", "val", "test"):
        blocks = [whole[block * i : block * (i + 1)] for i in chosen[split].tolist()]
        for inputs, targets in itertools.islice(task.batches(split, fixed()), 50):
            for first, second in zip(inputs.tolist(), targets.tolist(), strict=True):
                assert len(first) == 64 and first[1:] == second[:-1]
                window = bytes([*first, second[-1]])
                assert window in blocks  # random bytes: no window of 65 occurs twice


def test_evaluation_is_one_bounded_pass_over_windows_that_do_not_overlap(prose):
    short = torch.cat([inputs for inputs, _ in Text(text=str(prose)).batches("test", fixed())])
    assert len(short) == round(0.05 * 307)
    whole = prose.read_bytes()
    starts = sorted(whole.index(bytes(window)) for window in short.tolist())
    assert all(b - a >= 65 for a, b in itertools.pairwise(starts))
    library = [sum(len(inputs) for inputs, _ in Text().batches(split, fixed())) for split in ("val", "test")]
    assert library == [96, 1024]


def test_training_windows_of_a_long_text_stay_within_their_block():
    task = Text(batch_size=256)
    windows = next(task.batches("train", fixed()))[0]
    pool = task.pool().flatten(1)
    training = {bytes(pool[i].tolist()) for i in task.split_indices(len(pool), val=0.05, test=0.05)["train"].tolist()}
    assert pool.shape[1] == 16 * 65
    assert all(any(bytes(window) in block for block in training) for window in windows[:32].tolist())


def test_the_losses_of_blocks_average_to_the_loss():
    task = Text()
    torch.manual_seed(0)
    model, batch = task.model().eval(), next(task.batches("test", fixed()))
    with torch.no_grad():
        items, whole = task.losses(model, batch), task.evaluate(model, batch)
    assert all(values.shape == (4,) for values in items.values())  # 64 windows are 4 blocks of 16
    assert {name: values.mean().item() for name, values in items.items()} == pytest.approx(whole, rel=1e-5)


def test_training_windows_are_decided_by_the_generator(prose):
    task = Text(text=str(prose), batch_size=3)
    first, second, other = (next(task.batches("train", fixed(seed)))[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other) and first.shape == (3, 64)
    assert task.size(next(task.batches("train", fixed()))) == 3 * 64


def test_the_trivial_loss_of_text_is_the_entropy_of_its_bytes(prose):
    task = Text(text=str(prose))
    counts = collections.Counter(
        byte for _, targets in task.batches("val", fixed()) for byte in targets.ravel().tolist()
    )
    total = sum(counts.values())
    assert task.trivial_loss() == pytest.approx(-sum(n / total * math.log(n / total) for n in counts.values()))


def test_the_library_is_the_default_text():
    task, library = Text(), Path(sysconfig.get_paths()["stdlib"])
    files = task.data_files()
    assert files == task.data_files() and all(path.suffix == ".py" for path in files)
    folders = {part for path in files for part in path.relative_to(library).parts[:-1]}
    assert not folders & {"test", "tests", "site-packages", "dist-packages"}
    total = sum(part.numel() for part in (inputs for inputs, _ in task.batches("test", fixed())))
    assert total == 1024 * 64
    assert task.data_digest() == Text(norm="post").data_digest()


@pytest.mark.parametrize("content", [None, b"", b"too short " * 100])
def test_a_text_that_cannot_be_used_is_one_sentence(tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match="task text: text must be a file") as error:
        Text(text=str(path))
    assert str(path) in str(error.value) and "; " in str(error.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"norm": "layer"}, "norm must be one of pre, post, got norm='layer'"), ({"batch_size": 0}, "batch_size must be")],
)
def test_settings_of_text_are_checked(setting, said):
    with pytest.raises(ArgumentError, match=said):
        Text(**setting)


@pytest.mark.parametrize("network", ["pre", "post", "gru"])
def test_a_byte_is_foretold_from_those_before_it(network):
    torch.manual_seed(0)
    model = (
        ByteGRU(width=8, units=16, depth=2)
        if network == "gru"
        else ByteTransformer(16, width=16, depth=2, heads=2, norm=network)
    )
    text = torch.randint(256, (1, 16), generator=fixed())
    other = text.clone()
    other[0, 9] = (text[0, 9] + 1) % 256
    changed = (model(text) - model(other)).abs().amax(2)[0] > 0
    assert changed.tolist() == [False] * 9 + [True] * 7


@pytest.mark.parametrize(("norm", "normalised"), [("pre", False), ("post", True)])
def test_only_post_norm_normalises_what_it_hands_on(norm, normalised):
    torch.manual_seed(0)
    found = Block(32, 4, norm, causal=True)(5 + 3 * torch.randn(2, 8, 32, generator=fixed()))
    assert torch.allclose(found.mean(2), torch.zeros(2, 8), atol=1e-5) == normalised
    assert torch.allclose(found.std(2, correction=0), torch.ones(2, 8), atol=1e-3) == normalised


def test_text_post_is_text_with_post_norm():
    assert get_task("text-post").norm == "post" and get_task("text").norm == "pre"
    assert get_task("text-post").data_digest() == get_task("text").data_digest()
