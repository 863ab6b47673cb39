"""Checkpoints of shards: on as many processes a killed run goes on to the bit; on fewer it loads to the bit."""

import signal

import pytest
import torch

from support import checkpoint_runs
from support.ranks import killed_on_ranks, on_ranks
from support.sharded_runs import apart


def same(ours, theirs, values_only=False):
    return ours.keys() == theirs.keys() and all(
        (values_only or ours[k].dtype == theirs[k].dtype) and torch.equal(ours[k], theirs[k].to(ours[k].dtype))
        for k in ours
    )


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    straight = on_ranks(4, checkpoint_runs.uninterrupted)[0]
    assert killed_on_ranks(4, checkpoint_runs.killed, tmp_path) == [-signal.SIGKILL] * 4
    for count, spread in ((4, True), (2, True), (1, True), (1, False)):
        for kind, (loaded, end) in on_ranks(count, checkpoint_runs.resumed, tmp_path, spread)[0].items():
            halfway, expected = straight[kind]
            assert same(loaded, halfway, "int8" in kind), f"{kind} on {count}: loaded otherwise than saved"
            if count == 4:
                assert same(end, expected), f"{kind}: does not go on exactly"
            if "int8" in kind and count != 4:
                continue  # other shards have other blocks, and so other random numbers round them
            assert apart(end, expected) <= 1e-6, f"{kind} on {count}: goes on otherwise"
