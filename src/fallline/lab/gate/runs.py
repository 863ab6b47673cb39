"""Run the commands of the two arms, and read their metric."""

import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fallline.errors import ArgumentError
from fallline.lab.command import Command, Source, run_process

_LARGEST = 1e100  # so that no square overflows; NaN and larger values are failures
SEED, OUT, COMMAND = "seed", "out", "{command}"


@dataclass(frozen=True)
class Arm:
    """What is run with one seed after another.

    Attributes:
        command: command line with {seed}, and optionally {out}, a new folder for every run.
        tree: name of a copy of the files, see `trees`.
        folder: working folder in it.
        digest: hash of the files.
    """

    command: str
    tree: str
    folder: str
    digest: str

    def to_json(self) -> dict[str, str]:
        """Return the fields."""
        return asdict(self)

    def evaluate(self, final: str) -> "Arm":
        """Return an arm that runs another command on the same files; {command} in it stands for that of this arm."""
        words = f" {final} ".replace(f" {COMMAND} ", f" {self.command} ")
        return replace(self, command=words.strip())


@dataclass(frozen=True)
class Outcome:
    """The result of a run: a value below 1e100, or the reason why there is none."""

    value: float | None
    problem: str
    seconds: float


@dataclass(frozen=True)
class Runner:
    """Runs an arm with a seed.

    Attributes:
        trees: folder of the copies of the files.
        source: where the metric is found.
        timeout: time limit of a run in seconds; None for no limit.
    """

    trees: Path
    source: Source
    timeout: float | None = None

    def run(self, arm: Arm, seed: int) -> Outcome:
        """Run the command of an arm with a seed and return its metric.

        Raises:
            ArgumentError: the program does not exist.
        """
        folder = self.trees / arm.tree / arm.folder
        with tempfile.TemporaryDirectory(prefix="fallline-") as out:
            values = {SEED: seed, OUT: out}
            reading = self.source.prepare(values, folder)
            done = run_process(Command(arm.command).fill(values), timeout=self.timeout, folder=folder)
            if done.problem:
                last = done.last_lines.splitlines()[-1:]
                return Outcome(None, f"{done.problem}{': ' if last else ''}{''.join(last)}", done.seconds)
            value = reading.find(done)
        if value is None:
            place = f"file {self.source.file!r}" if self.source.file else "output"
            return Outcome(None, f"has no {self.source.metric} in its {place}", done.seconds)
        if not abs(value) < _LARGEST:
            return Outcome(None, f"has {self.source.metric} = {value}", done.seconds)
        return Outcome(value, "", done.seconds)


def check_command(name: str, text: str, folder: Path) -> None:
    """Check that a command uses {seed}, has no unknown placeholder, and that its program exists.

    Raises:
        ArgumentError: it does not.
    """
    command = Command(text)
    if SEED not in command.placeholders:
        raise ArgumentError(
            f"{name}: must contain {{seed}}, because both arms run with many seeds, got {text!r}; add for example "
            "--seed {seed}"
        )
    unknown = [placeholder for placeholder in command.placeholders if placeholder not in (SEED, OUT)]
    if unknown:
        raise ArgumentError(
            f"{name}: placeholders must be {{seed}} or {{out}}, got {{{unknown[0]}}}; write {{{{{unknown[0]}}}}} if "
            "the braces belong to the command"
        )
    program = command.words[0]
    if "{" not in program and shutil.which(program) is None and shutil.which(str(folder / program)) is None:
        raise ArgumentError(f"{name}: the program must exist, got {program!r}; give its full path")


Item = tuple[str, int]  # an arm and a seed


def run_each(items: Sequence[Item], jobs: int, run: Callable[[Item], Outcome]) -> Iterator[tuple[Item, Outcome]]:
    """Yield the outcomes of runs as they finish, and start no further one after a failure.

    Runs that have started are finished, also after a failure. Threads are daemons: after Ctrl-C nobody waits for them,
    and their commands end with this process.
    """
    if jobs == 1:
        for item in items:
            outcome = run(item)
            yield item, outcome
            if outcome.problem:
                return
        return
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[Item, Outcome | Exception] | None] = queue.SimpleQueue()
    stop = threading.Event()
    for item in items:
        waiting.put(item)

    def work() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                finished.put((item, run(item)))
            except Exception as error:  # raised again in the thread that waits
                finished.put((item, error))
        finished.put(None)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(items)))]
    for worker in workers:
        worker.start()
    left = len(workers)
    try:
        while left:
            found = finished.get()
            if found is None:
                left -= 1
                continue
            item, result = found
            if isinstance(result, Exception):
                raise result
            if result.problem:
                stop.set()
            yield item, result
    finally:
        stop.set()
