"""Text, byte by byte: the source of Python's standard library, or a file of the user's."""

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
from fallline.lab.data import Progress
from fallline.lab.tasks.base import Task
from fallline.lab.tasks.transformer import NORMS, ByteTransformer

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

CONTEXT = 64  # bytes that the model sees
_SHARES = {"train": 0.9, "val": 0.05, "test": 0.05}  # one after the other, so that no window crosses a border
_WINDOWS = {"val": 96, "test": 512}  # evaluated at most; validation is evaluated twenty times a run
_EVALUATED_AT_ONCE = 64  # windows
_LIBRARY_BYTES = 2_000_000
# Not the library's own text, the same everywhere, or there only on some systems.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def _splits(text: str) -> dict[str, torch.Tensor]:
    """Return the bytes (n,) of each split."""
    path = Path(text).expanduser()
    return _split(text, path.stat().st_mtime_ns if text and path.exists() else 0)


@functools.cache
def _split(text: str, changed: int) -> dict[str, torch.Tensor]:
    data = _bytes(text)
    shortest = math.ceil(2 * (CONTEXT + 1) / min(_SHARES.values()))  # two windows in each split
    if len(data) < shortest:
        raise ArgumentError(
            f"task text: text must be a file of at least {shortest} bytes, got {len(data)} in {text!r}; "
            "pass a longer one"
        )
    ends = [round(len(data) * share) for share in (0.9, 0.95)]
    whole = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return dict(zip(_SHARES, whole.tensor_split(ends), strict=True))


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
    """Return the files of the standard library, by name, up to the bytes that are used."""
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
    """The next byte of a text under a causal transformer.

    Attributes:
        batch_size: windows of 64 bytes a step.
        norm: where the blocks have their LayerNorm, "pre" or "post".
        text: a FILE; "" stands for the source of Python's standard library, which every machine has.
    """

    name: ClassVar[str] = "text"
    steps: ClassVar[int] = 600
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, pre-norm transformer of 4 blocks"
    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "norm": "pre", "text": ""}
    unit: ClassVar[str] = "nats a byte"
    batch_size: int
    norm: str
    text: str

    def __init__(self, **settings: Any) -> None:
        """Create the task with other settings than its defaults.

        Raises:
            ArgumentError: a setting is unknown or has no such value; the text cannot be read, or is too short.
        """
        super().__init__(**settings)
        if self.norm not in NORMS:
            raise ArgumentError(f"task {self.name}: norm must be one of {', '.join(NORMS)}, got norm={self.norm!r}")
        if self.batch_size < 1:
            raise ArgumentError(f"task {self.name}: batch_size must be at least 1, got batch_size={self.batch_size}")
        if self.text:
            _splits(self.text)

    def model(self) -> nn.Module:
        """Return a transformer of width 64 with 4 blocks of 4 heads."""
        return ByteTransformer(CONTEXT, width=64, depth=4, heads=4, norm=self.norm)

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield random windows of the training text without end, or evenly spaced ones of another split once."""
        data = _splits(self.text)[split]
        offsets = torch.arange(CONTEXT + 1)
        if split != "train":
            windows = data[_starts(len(data), _WINDOWS[split])[:, None] + offsets].long()
            for chunk in windows.split(_EVALUATED_AT_ONCE):
                yield chunk[:, :-1], chunk[:, 1:]
            return
        while True:
            starts = torch.randint(len(data) - CONTEXT, (self.batch_size, 1), generator=generator)
            windows = data[starts + offsets].long()
            yield windows[:, :-1], windows[:, 1:]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of the next byte in nats."""
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the loss, the same in bits, and the share of bytes foretold, from one forward pass."""
        inputs, targets = batch
        logits = model(inputs).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, targets.flatten()).item()
        accuracy = (logits.argmax(1) == targets.flatten()).double().mean().item()
        return {"loss": loss, "bits_per_byte": loss / math.log(2), "accuracy": accuracy}

    def size(self, batch: Batch) -> int:
        """Return how many bytes are foretold."""
        return batch[1].numel()

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always answering with the byte frequencies of that split."""
        targets = torch.cat([targets.flatten() for _, targets in self.batches("val", torch.Generator())])
        frequencies = torch.bincount(targets).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())

    def data_files(self, progress: Progress | None = None) -> list[Path]:
        """Return the user's file, or those of the standard library that are read."""
        return [Path(self.text).expanduser()] if self.text else _library()

    def data_digest(self) -> str:
        """Return a hash of the whole text."""
        digest = hashlib.sha256()
        for part in _splits(self.text).values():
            digest.update(part.numpy().data)
        return digest.hexdigest()[:16]


class TextPost(Text):
    """The same under the original transformer, which needs warm-up."""

    name: ClassVar[str] = "text-post"
    summary: ClassVar[str] = "next byte of Python's standard library or --text FILE, post-norm transformer of 4 blocks"
    settings: ClassVar[Mapping[str, Any]] = {**Text.settings, "norm": "post"}


def _starts(length: int, count: int) -> torch.Tensor:
    """Return where evenly spaced windows begin, as many as fit without overlapping, at most `count`.

    Example:
        >>> _starts(1000, 3).tolist()
        [0, 467, 935]
    """
    count = min(count, length // (CONTEXT + 1))
    return torch.linspace(0, length - CONTEXT - 1, count).long()
