"""Rules whose states have other shapes than the parameter compute on shards what they compute on whole tensors."""

import pytest

from support import factored_runs
from support.ranks import on_ranks


@pytest.mark.slow
def test_steps_on_shards_are_those_on_whole_tensors():
    for found in on_ranks(2, factored_runs.shards_run):
        assert len(found) == 27 and not [case for case, same in found.items() if not same]
