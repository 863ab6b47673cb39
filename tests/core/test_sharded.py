"""Parameters spread over processes: the same numbers as in one process, whatever the optimizer and its options."""

import functools

import numpy as np
import pytest

from support import sharded_runs
from support.ranks import on_ranks
from support.sharded_runs import apart


def assembled(ranks, shards):
    """Return the result of a training by case, put together here from what each process held.

    Every `shards` processes hold a whole between them, the rows one after the other; all wholes must be the same.
    """
    groups = [ranks[i : i + shards] for i in range(0, len(ranks), shards)]
    wholes = [
        {case: {key: _joined(group, case, key) for key in group[0][case]} for case in group[0]} for group in groups
    ]
    for other in wholes[1:]:
        assert all(np.array_equal(other[case][key], value) for case in other for key, value in wholes[0][case].items())
    return wholes[0]


def _joined(group, case, key):
    parts = [rank[case][key] for rank in group]
    if parts[0].ndim:
        return np.concatenate(parts)
    assert len(set(map(float, parts))) == 1, "the processes disagree on the step"
    return parts[0]


def distances(ours, theirs):
    assert ours.keys() == theirs.keys() and len(ours) >= 100
    return {case: apart(ours[case], theirs[case]) for case in ours}


@functools.cache
def alone(run):
    """Return what one process computes."""
    return on_ranks(1, run, None)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count", "shards"),
    [("fsdp", 2, 2), ("fsdp", 4, 4), ("hsdp", 4, 2), ("ddp", 2, 1)],
)
def test_fifty_float64_steps_equal_one_process(kind, count, shards):
    # Measured: 1.2e-13, by SAM around RMSprop with everything, under HSDP; batches are averaged in another order.
    ours = assembled(on_ranks(count, sharded_runs.float64_trainings, kind), shards)
    found = distances(ours, alone(sharded_runs.float64_trainings))
    found.pop("prodigy-maximize")  # it diverges, and multiplies rounding: 3.3e-10
    assert max(found.values()) <= 1e-10, sorted(found.items(), key=lambda item: -item[1])[:5]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_fifty_replayed_steps_equal_one_process(count):
    ours = assembled(on_ranks(count, sharded_runs.replays, True), count)
    found = distances(ours, alone(sharded_runs.replays))
    assert max(found.values()) <= 1e-6, sorted(found.items(), key=lambda item: -item[1])[:5]
    # Without a norm there is no sum in another order: not a bit differs, stochastic rounding included. (With norms none
    # was seen to differ either: their squares are summed in float64.)
    normed = ("cautious", "clip", "everything", "lamb", "prodigy", "sam")
    assert {name: far for name, far in found.items() if far and not any(word in name for word in normed)} == {}


@pytest.mark.slow
def test_every_backend_serves_shards():
    first, second = on_ranks(2, sharded_runs.backends, "fsdp")
    assert first == second and max(first.values()) <= 1e-6


@pytest.mark.slow
def test_shards_have_blocks_of_their_own():
    ranks = on_ranks(2, sharded_runs.blocks)
    for rank, found in enumerate(ranks):
        for name, ends in found.items():
            for key in ("weight", "bias"):
                start = np.array_split(sharded_runs.STARTS[key].double().numpy(), [151])[rank]
                moves = [ends[kind][key] - start for kind in ("blocks", "float32")]
                share = (moves[0] * moves[1]).sum() / (moves[1] ** 2).sum()
                assert abs(share - 1) < 0.05, (name, key, share)
                if rank == 0 and "plain" in ends:
                    assert np.array_equal(ends["blocks"][key], ends["plain"][key]), (name, key)
            kinds = [{key: value.shape for key, value in ends[kind].items()} for kind in ("blocks", "float32")]
            assert kinds[0].items() >= kinds[1].items()
