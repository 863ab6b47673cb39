"""What the tests of the built-in tasks read: small files in the formats of the real data, and fixed generators."""

import collections
import gzip
import io
import random
import struct
import tarfile

import torch


def fixed(seed=0):
    return torch.Generator().manual_seed(seed)


def members(images):
    """A multiset of images, so that splits can be compared."""
    return collections.Counter(bytes(image.contiguous().flatten().tolist()) for image in images)


def records(count, seed):
    draw = random.Random(seed)
    return [bytes([draw.randrange(10)]) + draw.randbytes(3072) for _ in range(count)]


def cifar_parts(seed=0):
    """The files of CIFAR-10, of 300 + 50 images."""
    parts = {f"data_batch_{i}.bin": b"".join(records(60, seed + i)) for i in range(1, 6)}
    return {**parts, "test_batch.bin": b"".join(records(50, seed))}


def write_archive(path, parts, folder="cifar-10-batches-bin/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"batches.meta.txt": b"airplane\n", **parts}.items():
            entry = tarfile.TarInfo(folder + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_idx(path, shape, data, head=b"\0\0\x08"):
    content = head + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data
    path.write_bytes(gzip.compress(content))


def write_clothes(folder):
    """Write Fashion-MNIST in files of 90 + 20 images; return the bytes of each part's images and labels."""
    draw = random.Random(0)
    made = {}
    for part, count in (("train", 90), ("t10k", 20)):
        made[part] = draw.randbytes(784 * count), bytes(draw.randrange(10) for _ in range(count))
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", (count, 28, 28), made[part][0])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", (count,), made[part][1])
    return made


# Parts of files that define tasks: 32 random rows, and points of a line.
ROWS = """
    def batches(self, split, generator):
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(len(split)))
        while split == "train":
            yield x[torch.randperm(32, generator=generator)[:8]]
        yield x
"""
LINE = """
import torch
import fallline as fl

def batches(split, generator):
    x = torch.linspace(-1, 1, 64).reshape(-1, 1) + {"train": 0.0, "val": 0.001, "test": 0.002}[split]
    while True:
        order = torch.randperm(64, generator=generator)[:16] if split == "train" else torch.arange(64)
        yield x[order], (3 * x + 1)[order]
        if split != "train":
            return
"""
