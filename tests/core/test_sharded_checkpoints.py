"""Checkpoints of shards: on as many processes a killed run goes on to the bit; on fewer it loads to the bit."""

import signal

import pytest
import torch

from support import checkpoint_runs
from support.ranks import killed_on_ranks, on_ranks
from support.sharded_runs import apart


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype and torch.equal(ours[k], theirs[k]) for k in ours
    )


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    straight = on_ranks(4, checkpoint_runs.uninterrupted)[0]
    assert killed_on_ranks(4, checkpoint_runs.killed, tmp_path) == [-signal.SIGKILL] * 4
    for count, spread in ((4, True), (2, True), (1, True), (1, False)):
        for kind, (loaded, end) in on_ranks(count, checkpoint_runs.resumed, tmp_path, spread)[0].items():
            halfway, expected = straight[kind]
            assert same(loaded, halfway), f"{kind} on {count}: loaded otherwise than saved"
            if count == 4:
                assert same(end, expected), f"{kind}: does not go on exactly"
            assert apart(end, expected) <= 1e-6, f"{kind} on {count}: goes on otherwise"
