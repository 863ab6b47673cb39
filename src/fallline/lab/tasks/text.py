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
from fallline.lab.tasks.networks.transformer import NORMS, ByteTransformer

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

CONTEXT = 64  # bytes of input to the model
_SHARE = 0.05  # fraction of the blocks in each of validation and test
_WINDOWS = {"val": 96, "test": 1024}  # maximum number evaluated; validation runs 20 times per run
_WINDOWS_PER_BLOCK = 16  # about 1 KB; neighbouring windows are similar, so a block counts as one example
_BLOCKS = 400  # minimum, if the text has that many windows
_EVALUATED_AT_ONCE = 64  # windows
_LIBRARY_BYTES = 2_000_000
# Not part of the library, or present only on some systems.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def _pool(text: str) -> torch.Tensor:
    """Return the text as uint8 (blocks, windows per block, 65)."""
    path = Path(text).expanduser()
    return _blocks(text, path.stat().st_mtime_ns if text and path.exists() else 0)


@functools.cache
def _blocks(text: str, changed: int) -> torch.Tensor:
    data = _bytes(text)
    shortest = math.ceil(2 * (CONTEXT + 1) / _SHARE)  # two windows in each split
    if len(data) < shortest:
        raise ArgumentError(
            f"task text: text must be a file of at least {shortest} bytes, got {len(data)} in {text!r}; "
            "pass a longer file"
        )
    windows = len(data) // (CONTEXT + 1)
    per_block = max(1, min(_WINDOWS_PER_BLOCK, windows // _BLOCKS))
    kept = windows // per_block * per_block * (CONTEXT + 1)
    return torch.frombuffer(bytearray(data[:kept]), dtype=torch.uint8).view(-1, per_block, CONTEXT + 1)


def _bytes(text: str) -> bytes:
    if not text:
        return b"\n".join(path.read_bytes() for path in _library())[:_LIBRARY_BYTES]
    try:
        return Path(text).expanduser().read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"task text: text must be a file that can be read, got {text!r} ({error.strerror}); "
            "leave it out for the source of Python's standard library"
        ) from None


def _library() -> list[Path]:
    """Return the first files of the standard library, sorted by name, with at least _LIBRARY_BYTES in total."""
    chosen, size = [], 0
    for path in _sources(Path(sysconfig.get_paths()["stdlib"])):
        chosen.append(path)
        size += path.stat().st_size
        if size >= _LIBRARY_BYTES:
            break
    return chosen


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _SKIPPED:
            yield from _sources(path)
        elif path.suffix == ".py" and not path.name.startswith("_sysconfig"):
            yield path


class Text(Task):
    """Predict the next byte of a text with a causal transformer.

    Attributes:
        batch_size: windows of 64 bytes per step.
        norm: position of the LayerNorm in the blocks, "pre" or "post".
        text: path of a text file; "" uses the source of Python's standard library, which every machine has.
    """

    name: ClassVar[str] = "text"
    steps: ClassVar[int] = 600
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, pre-norm transformer of 4 blocks"
    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "norm": "pre", "text": ""}
    unit: ClassVar[str] = "nats per byte"
    resplit: ClassVar[bool] = True
    batch_size: int
    norm: str
    text: str

    def __init__(self, **settings: Any) -> None:
        """Check the settings.

        Raises:
            ArgumentError: a setting is unknown or invalid, or the text cannot be read or is too short.
        """
        if self.norm not in NORMS:
            raise ArgumentError(f"task {self.name}: norm must be one of {', '.join(NORMS)}, got norm={self.norm!r}")
        if self.batch_size < 1:
            raise ArgumentError(f"task {self.name}: batch_size must be at least 1, got batch_size={self.batch_size}")
        if self.text:
            _pool(self.text)

    def model(self) -> nn.Module:
        """Return a transformer of width 64 with 4 blocks of 4 heads."""
        return ByteTransformer(CONTEXT, width=64, depth=4, heads=4, norm=self.norm)

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield random windows of the training blocks indefinitely, or one pass over the windows of another split.

        Validation uses windows from all of its blocks, the test split uses whole blocks, at most _WINDOWS windows each.
        """
        pool = _pool(self.text)
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
        offsets = torch.arange(CONTEXT + 1)
        last = blocks.shape[1] - CONTEXT
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
        logits, per_block = model(inputs), _pool(self.text).shape[1]
        shape = (-1, CONTEXT if len(targets) % per_block else per_block * CONTEXT)
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
        return [Path(self.text).expanduser()] if self.text else _library()

    def data_digest(self) -> str:
        """Return a hash of the whole text."""
        return hashlib.sha256(_pool(self.text).numpy().data).hexdigest()[:16]


class TextPost(Text):
    """The task `text` with the original post-norm transformer, which needs warm-up."""

    name: ClassVar[str] = "text-post"
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, post-norm transformer of 4 blocks"
    settings: ClassVar[Mapping[str, Any]] = {**Text.settings, "norm": "post"}


def _spread(length: int, count: int) -> torch.Tensor:
    """Return at most `count` indices, evenly spaced over a length.

    Example:
        >>> _spread(1000, 3).tolist()
        [0, 499, 999]
    """
    return torch.linspace(0, length - 1, min(count, length)).long()
