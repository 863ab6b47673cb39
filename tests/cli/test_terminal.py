"""Commands in a terminal of 80 columns: what remains on the screen when they have ended."""

import pytest

from support.terminals import run_in_terminal, screens


def test_the_emulated_screen_shows_what_is_left_over():
    bar = "tuning 1/2\r\x1b[2Ktuning 2/2\nfound: 3\r\n"
    final, shown = screens(bar)
    assert final == ["tuning 2/2", "found: 3", ""] and "tuning 1/2" in shown
    assert screens("one\r\ntwo\x1b[1A\r\x1b[2Kthree\r\n")[0] == ["three", "two"]
    assert screens("a" * 81)[0] == ["a" * 80, "a"]


@pytest.mark.slow
def test_the_first_range_test_leaves_a_notice_and_its_results(tmp_path):
    words = ["lr-range", "digits", "--steps", "20", "--low", "1e-4"]
    environment = {"FALLLINE_CACHE_DIR": str(tmp_path / "kernels")}
    for first in (True, False):
        code, written = run_in_terminal(words, tmp_path, environment=environment)
        final, shown = screens(written)
        notice = "compiling optimizer kernels (a few seconds, on the first run only)"
        assert code == 0 and shown.count(notice) == final.count(notice) == first
        assert final[first] == "digits with adamw: 20 updates from lr 0.0001 to 10"
        assert any(line.startswith("range test ━") and line.endswith("updates, up to 0 s left") for line in shown)
        assert not any("updates, " in line or "━━" in line for line in final)


@pytest.mark.slow
def test_landscape_leaves_only_its_results(tmp_path):
    words = ["landscape", "digits", "--items", "64", "--cells", "3", "--optimizer", "sgd@lr=0.1", "--steps", "9"]
    code, written = run_in_terminal(words, tmp_path)
    final, shown = screens(written)
    assert code == 0 and final[0].startswith("digits at the weights after 9 steps of sgd@lr=0.1: ")
    for stage in ("training", "eigenvalues", "sharpness", "trace", "spectrum"):
        assert any(line.startswith(f"{stage} ━") for line in shown), stage
    assert not any("━━" in line or " left" in line for line in final)
