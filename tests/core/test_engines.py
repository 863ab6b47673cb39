"""What PyTorch has for many processes besides FSDP2, around every optimizer: ZeRO, DDP, whole state dicts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support import engine_runs
from support.ranks import on_ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_zero_redundancy_equals_one_process_and_resumes_exactly():
    for found in on_ranks(2, engine_runs.zero_run):
        assert found == dict.fromkeys(engine_runs.ALONE, (0.0, 0.0))


@pytest.mark.slow
def test_sam_around_zero_redundancy_climbs_along_all_gradients():
    assert on_ranks(2, engine_runs.sam_around_zero_run) == [0.0] * 2


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_sam_under_ddp_climbs_by_what_the_first_backward_left(own):
    weight, centres = np.full(3, 4.0), [np.zeros(3), np.arange(3.0)]
    for _ in range(5):
        grads = [weight - c for c in centres]
        climbs = grads if own else [np.mean(grads, axis=0)] * 2
        there = [g + 0.5 * e / np.linalg.norm(e) for g, e in zip(grads, climbs, strict=True)]
        weight = weight - 0.1 * np.mean(there, axis=0)
    for found in on_ranks(2, engine_runs.sam_under_ddp_run, own, 5):
        np.testing.assert_allclose(found, weight, rtol=1e-12)


@pytest.mark.slow
def test_zero_redundancy_clips_by_what_a_process_owns_unless_clipped_before():
    for inside, before in on_ranks(2, engine_runs.clipped_zero_run):
        assert inside > 1e-3  # as the docs say: a miss, not a promise
        assert before <= 1e-15


@pytest.mark.slow
def test_shards_of_every_layout_are_rounded_as_the_whole():
    for found in on_ranks(2, engine_runs.layouts_run):
        assert found.pop("complex")[0] <= 1e-14  # norms are summed in another order
        assert found == dict.fromkeys(found, (0.0, True))


@pytest.mark.slow
def test_steps_in_backward_under_fsdp_are_the_ordinary_ones_to_the_bit():
    for found in on_ranks(2, engine_runs.in_backward_run):
        assert found == dict.fromkeys(engine_runs.ALONE, 0.0)


@pytest.mark.slow
def test_a_whole_state_dict_is_spread_when_loaded():
    assert on_ranks(2, engine_runs.whole_state_run) == [(0.0, 0.0)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_accumulation_by_tokens_equals_the_large_batch(kind):
    assert max(on_ranks(2, engine_runs.accumulation_run, kind)) <= 1e-6


@pytest.mark.slow
def test_the_example_of_accumulation_shows_what_to_divide_by():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "token_accumulation.py")], capture_output=True, text=True, check=True
    )
    by_tokens, by_means = (float(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines())
    assert by_tokens <= 1e-6 < 0.1 < by_means


@pytest.mark.slow
def test_the_example_of_mixed_precision_stays_with_float32_where_plain_bfloat16_does_not():
    """At 20 steps, in place of the 600 of its page."""
    script = str(ROOT / "examples" / "mixed_precision.py")
    done = subprocess.run([sys.executable, script, "20", "2"], capture_output=True, text=True, check=True)
    _, _, *lines = done.stdout.splitlines()
    away = {line[:36].strip(): abs(float(line[46:].split()[0])) for line in lines}
    plain = away.pop("bfloat16, plain")
    assert len(away) == 4
    assert max(away.values()) < min(plain, 0.5)
