"""Compiled kernels are executed from disk only if no other user can change them."""

import os
import stat
import warnings

import pytest

from fallline.backends.fused.cache import load_module
from fallline.errors import CacheWarning

if not hasattr(os, "geteuid"):
    # Windows has access lists instead of an owner and a mode, and `require_trusted` checks nothing there.
    pytest.skip("permissions are not checked on Windows", allow_module_level=True)

OTHER = 12345  # a uid
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
PLAIN = "value = 1  # cache=True\n"  # compiled by Python alone, in no time
COMPILED = """
from numba import njit

@njit("int64(int64)", cache=True)
def double(x):
    return 2 * x
"""


def is_from_disk(source=PLAIN, name="kernel"):
    """Load a module and return whether it came from a file."""
    return hasattr(load_module(name, source), "__file__")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A cache that others can read, with a module and the files that Numba would put next to it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(folder))
    for path in (folder, folder / "__pycache__"):
        path.mkdir()
        path.chmod(0o755)
    assert is_from_disk()
    (source,) = folder.glob("kernel_*.py")
    for suffix in ("nbi", "nbc"):
        file = folder / "__pycache__" / f"{source.stem}.update-8.{suffix}"
        file.write_bytes(b"")
        file.chmod(0o644)
    return folder


def open_to_all(path):
    path.chmod(0o777)
    return "which other users can write to (mode 0777)"


def give_away(path):
    os.chown(path, OTHER, OTHER)
    return f"which belongs to another user (uid {OTHER})"


PATHS = {
    "the folder": ".",
    "source": "kernel_*.py",
    "Numba's folder": "__pycache__/../__pycache__",
    "index": "__pycache__/*.nbi",
    "code": "__pycache__/*.nbc",
}


@pytest.mark.parametrize("pattern", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("change", [open_to_all, pytest.param(give_away, marks=needs_root)])
def test_code_that_others_can_change_is_compiled_in_memory_with_one_warning(folder, pattern, change):
    path = folder if pattern == "." else next(folder.glob(pattern)).resolve()
    reason = change(path)
    with pytest.warns(CacheWarning) as caught:
        assert not is_from_disk()
        assert load_module("kernel", PLAIN).value == 1
        if path.is_dir():
            assert not is_from_disk(name="another")
    (warning,) = caught
    text = str(warning.message)
    assert f"the kernel cache {folder}" in text and f"{path}, {reason}" in text
    assert "delete it" in text and "chmod -R go-w" in text and "FALLLINE_CACHE_DIR" in text


def test_planted_code_does_not_run(folder):
    (source,) = folder.glob("kernel_*.py")
    ran = folder.parent / "ran"
    planted = f"open({str(ran)!r}, 'w').close()\n" + PLAIN
    source.write_text(planted)
    folder.chmod(0o777)
    with pytest.warns(CacheWarning, match="other users can write"):
        assert not is_from_disk()
    assert not ran.exists() and source.read_text() == planted


@pytest.mark.parametrize("umask", [0, 0o002, 0o022])
def test_a_new_cache_is_private_and_numba_uses_it_whatever_the_umask(monkeypatch, tmp_path, umask):
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / "a" / "cache"))
    before = os.umask(umask)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            modules = [load_module("double", COMPILED) for _ in range(2)]
    finally:
        os.umask(before)
    assert [sum(module.double.stats.cache_hits.values()) for module in modules] == [0, 1]
    for path in ("a", "a/cache", "a/cache/__pycache__"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700


def test_the_folder_named_for_numba_is_checked(folder, monkeypatch, tmp_path):
    """With NUMBA_CACHE_DIR, Numba's files are not beside the source."""
    import numba

    (tmp_path / "numba").mkdir(mode=0o700)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    assert is_from_disk(COMPILED) and list((tmp_path / "numba").rglob("*.nbi"))
    (tmp_path / "numba").chmod(0o777)
    with pytest.warns(CacheWarning, match="numba, which other users can write to"):
        assert not is_from_disk(COMPILED)


def test_each_cache_folder_is_reported(monkeypatch, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / name))
        with pytest.warns(CacheWarning, match=f"{name} must be"):
            assert not is_from_disk()
