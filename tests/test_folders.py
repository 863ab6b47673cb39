"""Cached code is executed only if nobody else can change it."""

import os
import stat
from pathlib import Path

import pytest

from fallline.errors import TrustError
from fallline.folders import cache_folder, create_private_folder, data_folder, require_trusted

if not hasattr(os, "geteuid"):
    # Windows has access lists instead of an owner and a mode, and `require_trusted` checks nothing there.
    pytest.skip("permissions are not checked on Windows", allow_module_level=True)

OTHER = 12345  # a uid
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "parent" / "cache"
    create_private_folder(folder)
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    (folder / "kernel.py").write_text("x = 1")
    (folder / "kernel.py").chmod(0o644)
    return folder


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_created_folder_and_its_parents_are_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        create_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]
    require_trusted(tmp_path / "a" / "b")


def test_an_existing_folder_keeps_its_mode(cache):
    create_private_folder(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o755


def test_own_files_and_folders_are_trusted(cache):
    require_trusted(cache)
    require_trusted(cache / "kernel.py")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777], ids=oct)
def test_a_folder_that_others_can_write_to_is_refused(cache, mode):
    cache.chmod(mode)
    with pytest.raises(TrustError, match=rf"cache, which other users can write to \(mode {mode:04o}\)"):
        require_trusted(cache)


@pytest.mark.parametrize("mode", [0o664, 0o646], ids=oct)
def test_a_file_that_others_can_write_to_is_refused(cache, mode):
    (cache / "kernel.py").chmod(mode)
    with pytest.raises(TrustError, match=r"kernel\.py, which other users can write to"):
        require_trusted(cache / "kernel.py")
    cache.chmod(0o700)  # Numba's files have the mode of the umask, which is no danger if nobody reaches them
    require_trusted(cache / "kernel.py")


@pytest.mark.parametrize("mode", [0o775, 0o777], ids=oct)
def test_a_parent_that_others_can_write_to_is_refused_unless_it_is_sticky(cache, mode):
    cache.parent.chmod(mode)
    for path in (cache, cache / "kernel.py"):
        with pytest.raises(TrustError, match="parent, which other users can write to"):
            require_trusted(path)
    cache.parent.chmod(mode | stat.S_ISVTX)  # as /tmp
    for path in (cache, cache / "kernel.py"):
        require_trusted(path)


@needs_root
@pytest.mark.parametrize("name", [".", "kernel.py", ".."], ids=["folder", "file", "parent"])
def test_what_belongs_to_another_user_is_refused(cache, name):
    os.chown(cache / name, OTHER, OTHER)
    with pytest.raises(TrustError, match=f"belongs to another user \\(uid {OTHER}\\)"):
        require_trusted(cache / "kernel.py")


@needs_root
def test_files_of_root_are_trusted_by_every_user(cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    require_trusted(cache / "kernel.py")


@needs_root
def test_an_unmapped_owner_is_accepted_for_parents_only(cache):
    """In a container that maps one uid only, /home belongs to uid 65534."""
    os.chown(cache.parent, 65534, 65534)
    require_trusted(cache)
    os.chown(cache, 65534, 65534)
    with pytest.raises(TrustError, match="uid 65534"):
        require_trusted(cache)


def test_a_symbolic_link_is_followed_to_what_it_names(cache, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(cache)
    require_trusted(link)
    require_trusted(link / "kernel.py")
    cache.chmod(0o777)
    for path in (link, link / "kernel.py"):
        with pytest.raises(TrustError, match="cache, which other users can write to"):
            require_trusted(path)


def test_the_folders_of_all_links_on_the_way_count(cache, tmp_path):
    """Who can replace any link decides what is executed."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "second").symlink_to("../parent/cache")
    (tmp_path / "first").symlink_to(tmp_path / "open" / "second")
    require_trusted(tmp_path / "first")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(TrustError, match="open, which other users can write to"):
        require_trusted(tmp_path / "first" / "kernel.py")


@needs_root
def test_a_link_of_another_user_is_refused(cache, tmp_path):
    (tmp_path / "link").symlink_to(cache)
    os.chown(tmp_path / "link", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(TrustError, match="link, which belongs to another user"):
        require_trusted(tmp_path / "link" / "kernel.py")


def test_a_relative_path_is_checked_from_the_current_folder(cache, monkeypatch):
    monkeypatch.chdir(cache)
    require_trusted(Path("kernel.py"))
    cache.parent.chmod(0o777)
    with pytest.raises(TrustError, match="parent, which"):
        require_trusted(Path("kernel.py"))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        require_trusted(tmp_path / "missing")


def test_nothing_is_checked_without_user_ids(cache, monkeypatch):
    cache.chmod(0o777)
    monkeypatch.delattr(os, "geteuid")  # as on Windows
    require_trusted(cache)


def test_a_tilde_is_the_home_folder_for_kernels_as_for_data(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FALLLINE_CACHE_DIR", "~/kernels")
    monkeypatch.delenv("FALLLINE_DATA", raising=False)
    assert (cache_folder(), data_folder()) == (tmp_path / "kernels", tmp_path / "kernels" / "data")
