"""Golden files: what a run is recorded as, how it is stored, and how two records compare."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oracles.problem import RECORDED, Array, Case

FOLDER = Path(__file__).resolve().parents[1] / "golden"


@dataclass(frozen=True)
class Golden:
    """Hold the record of one run.

    Attributes:
        case: what was run.
        trajectory: the parameters after each step of `problem.RECORDED`, by step, then parameter name.
        state: the optimizer's state after the last step, by parameter name, then torch's state key.
        confirmed_by: the oracles that agree, the one that made the record first.
    """

    case: Case
    trajectory: dict[int, dict[str, Array]]
    state: dict[str, dict[str, Array]]
    confirmed_by: tuple[str, ...] = ()


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all stored goldens, sorted."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load(name: str, folder: Path = FOLDER) -> Golden:
    """Return the stored golden of that name."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        trajectory: dict[int, dict[str, Array]] = {step: {} for step in RECORDED}
        state: dict[str, dict[str, Array]] = {}
        for key in arrays.files:
            match key.split("/"):
                case ["trajectory", param]:
                    state.setdefault(param, {})
                    for step, value in zip(RECORDED, arrays[key], strict=True):
                        trajectory[step][param] = np.asarray(value)
                case ["state", param, entry]:
                    state[param][entry] = arrays[key]
    return Golden(_case(about["case"]), trajectory, state, tuple(about["confirmed_by"]))


def save(golden: Golden, folder: Path = FOLDER) -> Path:
    """Write a golden as an .npz whose bytes depend on its content alone, and return its path.

    Entries are stored, not deflated: random digits do not shrink, and zlib's output varies with its version.
    """
    path = folder / f"{golden.case.name}.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, array in _arrays(golden):
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # else it names the platform
            buffer = BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, buffer.getvalue())
    return path


def difference(ours: Golden, theirs: Golden) -> float:
    """Return the largest relative difference of any element; infinite if shapes, names or NaNs differ."""
    left, right = dict(_numbers(ours)), dict(_numbers(theirs))
    if left.keys() != right.keys() or any(left[key].shape != right[key].shape for key in left):
        return float("inf")
    return max(_relative(left[key], right[key]) for key in left)


def _relative(a: Array, b: Array) -> float:
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return float("inf")
    scale = np.maximum(np.abs(a), np.abs(b))
    return float(np.max(np.abs(a - b) / np.where(scale > 0, scale, 1.0)))


def _numbers(golden: Golden) -> Iterator[tuple[str, Array]]:
    for param in golden.state:
        rows = [golden.trajectory[step][param] for step in RECORDED]
        yield f"trajectory/{param}", np.asarray(np.stack(rows), dtype="<f8", order="C")
    for param, entries in golden.state.items():
        for key, value in entries.items():
            yield f"state/{param}/{key}", np.asarray(value, dtype="<f8", order="C")


def _arrays(golden: Golden) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    about = {"case": asdict(golden.case), "recorded": RECORDED, "confirmed_by": golden.confirmed_by}
    yield "about", np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    yield from _numbers(golden)


def _case(about: dict[str, Any]) -> Case:
    case = Case(**about)
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in case.config.items()}
    return replace(case, config=config, lrs=None if case.lrs is None else tuple(case.lrs))
