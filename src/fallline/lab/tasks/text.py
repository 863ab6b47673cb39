"""Next-byte prediction on the source of Python's standard library or on a file of the user."""

import functools
import hashlib
import math
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.download import Progress
from fallline.lab.tasks.networks.gru import ByteGRU
from fallline.lab.tasks.networks.transformer import NORMS, ByteTransformer

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_SHARE = 0.05  # fraction of the blocks in each of validation and test
_WINDOWS = {"val": 96, "test": 1024}  # maximum number evaluated; validation runs 20 times per run
_WINDOWS_PER_BLOCK = 16  # about 1 KB; neighbouring windows are similar, so a block counts as one example
_BLOCKS = 400  # minimum, if the text has that many windows
_EVALUATED_AT_ONCE = 64  # windows
# Not part of the library, or present only on some systems.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def _pool(text: str, context: int, library_bytes: int) -> torch.Tensor:
    """Return a text as uint8 (blocks, windows per block, context + 1)."""
    path = Path(text).expanduser()
    return _blocks(text, context, library_bytes, path.stat().st_mtime_ns if text and path.exists() else 0)


@functools.cache
def _blocks(text: str, context: int, library_bytes: int, changed: int) -> torch.Tensor:
    data = _bytes(text, library_bytes)
    shortest = math.ceil(2 * (context + 1) / _SHARE)  # two windows in each split
    if len(data) < shortest:
        raise ArgumentError(
            f"task text: text must be a file of at least {shortest} bytes, got {len(data)} in {text!r}; "
            "pass a longer file"
        )
    windows = len(data) // (context + 1)
    per_block = max(1, min(_WINDOWS_PER_BLOCK, windows // _BLOCKS))
    kept = windows // per_block * per_block * (context + 1)
    return torch.frombuffer(bytearray(data[:kept]), dtype=torch.uint8).view(-1, per_block, context + 1)


def _bytes(text: str, library_bytes: int) -> bytes:
    if not text:
        return b"\n".join(path.read_bytes() for path in _library(library_bytes))[:library_bytes]
    try:
        return Path(text).expanduser().read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"task text: text must be a file that can be read, got {text!r} ({error.strerror}); "
            "leave it out for the source of Python's standard library"
        ) from None


def _library(size: int) -> list[Path]:
    """Return the first files of the standard library, sorted by name, with at least `size` bytes if it is that long."""
    chosen: list[Path] = []
    for path in _sources(Path(sysconfig.get_paths()["stdlib"])):
        chosen.append(path)
        size -= path.stat().st_size
        if size <= 0:
            break
    return chosen


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _SKIPPED:
            yield from _sources(path)
        elif path.suffix == ".py" and not path.name.startswith("_sysconfig"):
            yield path


class NextByte(Task):
    """Predict the next byte of a text.

    Attributes:
        batch_size: windows of `context` bytes per step.
        text: path of a text file; "" uses the source of Python's standard library, which every machine has.
        context: bytes of input to the model.
        library_bytes: bytes of the standard library to read. They depend on the version of Python; a study records
            their hash.
    """

    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "text": "", "precision": "float32"}
    unit: ClassVar[str] = "nats per byte"
    resplit: ClassVar[bool] = True
    context: ClassVar[int] = 64
    library_bytes: ClassVar[int] = 2_000_000
    batch_size: int
    text: str

    def __init__(self, **settings: Any) -> None:
        """Check the settings.

        Raises:
            ArgumentError: a setting is unknown or invalid, or the text cannot be read or is too short.
        """
        if self.batch_size < 1:
            raise ArgumentError(f"task {self.name}: batch_size must be at least 1, got batch_size={self.batch_size}")
        if self.text:
            self.pool()

    def pool(self) -> torch.Tensor:
        """Return the text as uint8 (blocks, windows per block, context + 1)."""
        return _pool(self.text, self.context, self.library_bytes)

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield random windows of the training blocks indefinitely, or one pass over the windows of another split.

        Validation uses windows from all of its blocks, the test split uses whole blocks, at most _WINDOWS windows each.
        """
        pool = self.pool()
        blocks = pool[self.split_indices(len(pool), val=_SHARE, test=_SHARE)[split]]
        if split == "train":
            yield from self._training_windows(blocks.flatten(1), generator)
        windows = blocks.flatten(0, 1).long()
        if split == "val":
            windows = windows[_spread(len(windows), _WINDOWS[split])]
        for chunk in windows[: _WINDOWS[split]].split(_EVALUATED_AT_ONCE):
            yield chunk[:, :-1], chunk[:, 1:]

    def _training_windows(self, blocks: torch.Tensor, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches of windows at random positions within blocks (n, bytes), indefinitely."""
        offsets = torch.arange(self.context + 1)
        last = blocks.shape[1] - self.context
        while True:
            rows = torch.randint(len(blocks), (self.batch_size, 1), generator=generator)
            starts = torch.randint(last, (self.batch_size, 1), generator=generator)
            windows = blocks[rows, starts + offsets].long()
            yield windows[:, :-1], windows[:, 1:]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of the next byte, in nats."""
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the loss in nats and in bits, and the fraction of bytes predicted correctly, from one forward pass."""
        inputs, targets = batch
        logits = model(inputs).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, targets.flatten()).item()
        accuracy = (logits.argmax(1) == targets.flatten()).double().mean().item()
        return {"loss": loss, "bits_per_byte": loss / math.log(2), "accuracy": accuracy}

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the metrics of every block of a test batch, or of every window if the batch has partial blocks."""
        inputs, targets = batch
        logits, per_block = model(inputs), self.pool().shape[1]
        shape = (-1, self.context if len(targets) % per_block else per_block * self.context)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        correct = (logits.argmax(2) == targets).double()
        means = loss.view(shape).mean(1)
        return {"loss": means, "bits_per_byte": means / math.log(2), "accuracy": correct.view(shape).mean(1)}

    def size(self, batch: Batch) -> int:
        """Return the number of predicted bytes."""
        return batch[1].numel()

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always predicting the byte frequencies of that split."""
        targets = torch.cat([targets.flatten() for _, targets in self.batches("val", torch.Generator())])
        frequencies = torch.bincount(targets).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())

    def data_files(self, progress: Progress | None = None) -> list[Path]:
        """Return the user's file, or the files of the standard library that are read."""
        return [Path(self.text).expanduser()] if self.text else _library(self.library_bytes)

    def data_digest(self) -> str:
        """Return a hash of the whole text."""
        return hashlib.sha256(self.pool().numpy().data).hexdigest()[:16]


class Text(NextByte):
    """Predict the next byte with a causal transformer.

    Attributes:
        norm: position of the LayerNorm in the blocks, "pre" or "post".
    """

    name: ClassVar[str] = "text"
    steps: ClassVar[int] = 600
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, pre-norm transformer of 4 blocks"
    network: ClassVar[str] = "transformer"
    settings: ClassVar[Mapping[str, Any]] = {**NextByte.settings, "norm": "pre"}
    width: ClassVar[int] = 64
    norm: str

    def __init__(self, **settings: Any) -> None:
        """Check the settings.

        Raises:
            ArgumentError: a setting is unknown or invalid, or the text cannot be read or is too short.
        """
        if self.norm not in NORMS:
            raise ArgumentError(f"task {self.name}: norm must be one of {', '.join(NORMS)}, got norm={self.norm!r}")
        super().__init__(**settings)

    def model(self) -> nn.Module:
        """Return a transformer with 4 blocks of 4 heads."""
        return ByteTransformer(self.context, width=self.width, depth=4, heads=4, norm=self.norm)


class TextPost(Text):
    """The task `text` with the original post-norm transformer, which needs warm-up."""

    name: ClassVar[str] = "text-post"
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, post-norm transformer of 4 blocks"
    settings: ClassVar[Mapping[str, Any]] = {**Text.settings, "norm": "post"}


class TextLarge(Text):
    """The task `text` with five times the text, twice the context and a transformer of twice the width."""

    name: ClassVar[str] = "text-large"
    steps: ClassVar[int] = 1000
    summary: ClassVar[str] = "next byte of 10 MB of Python's standard library or --text FILE, transformer of width 128"
    context: ClassVar[int] = 128
    library_bytes: ClassVar[int] = 10_000_000
    width: ClassVar[int] = 128


class TextGRU(NextByte):
    """Predict the next byte with a recurrent network."""

    name: ClassVar[str] = "text-gru"
    steps: ClassVar[int] = 600
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, GRU of 128 units"
    network: ClassVar[str] = "recurrent"

    def model(self) -> nn.Module:
        """Return a layer of 128 gated recurrent units."""
        return ByteGRU(width=64, units=128, depth=1)


def _spread(length: int, count: int) -> torch.Tensor:
    """Return at most `count` indices, evenly spaced over a length.

    Example:
        >>> _spread(1000, 3).tolist()
        [0, 499, 999]
    """
    return torch.linspace(0, length - 1, min(count, length)).long()
