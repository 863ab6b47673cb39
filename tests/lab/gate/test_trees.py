"""Copies of the user's files: what is copied, what is linked, and that a hash names a content."""

import subprocess

import pytest

from fallline.errors import ArgumentError
from fallline.lab.gate.trees import check_out, copy_tree


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path):
    """A repository with a tracked, an untracked and an ignored file, and a session inside."""
    root = tmp_path / "repository"
    for name, text in {
        "sub/train.py": "print(1)",
        "sub/new.py": "print(2)",
        ".gitignore": "data/\nruns/\n*.log\n",
        "old.log": "x",
        "data/big.bin": "x",
        "sub/__pycache__/train.pyc": "x",
        "runs/other.txt": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "sub/train.py", ".gitignore")
    git(root, "commit", "-qm", "first")
    return root


def test_a_copy_has_what_git_does_not_ignore_and_links_the_rest(repository):
    tree = copy_tree(repository / "sub", repository / "runs" / "session" / "trees")
    assert tree.folder == "sub"
    assert (tree.root / "sub/new.py").read_text() == "print(2)"
    assert not (tree.root / "sub/train.py").is_symlink()
    assert (tree.root / "data").is_symlink() and (tree.root / "data/big.bin").read_text() == "x"
    assert not (tree.root / ".git").exists() and not (tree.root / "sub/__pycache__").exists()
    assert not (tree.root / "runs").exists()  # the session is inside


def test_the_hash_is_that_of_the_content(repository, tmp_path):
    store = tmp_path / "session" / "trees"
    first = copy_tree(repository, store)
    assert copy_tree(repository, store) == first
    (repository / "data/big.bin").write_text("changed")  # ignored
    assert copy_tree(repository, store).digest == first.digest
    (repository / "sub/new.py").write_text("print(3)")
    second = copy_tree(repository, store)
    assert second.digest != first.digest
    assert (first.root / "sub/new.py").read_text() == "print(2)"
    assert sorted(path.name for path in store.iterdir()) == sorted([first.digest, second.digest])


def test_a_revision_is_checked_out_into_a_worktree(repository, tmp_path):
    store = tmp_path / "session" / "trees"
    (repository / "sub/train.py").write_text("edited")
    (repository / "sub/new.py").unlink()
    tree = check_out("HEAD", repository / "sub", store)
    assert (tree.root / tree.folder / "train.py").read_text() == "print(1)"
    assert (tree.root / "data").is_symlink()
    assert str(tree.root) in git(repository, "worktree", "list")
    assert check_out("HEAD", repository / "sub", store) == tree
    git(repository, "checkout", "sub/train.py")
    assert copy_tree(repository / "sub", store).digest == tree.digest


def test_what_cannot_be_checked_out_is_refused(repository, tmp_path):
    with pytest.raises(ArgumentError, match=r"baseline_rev: must be a revision of .*, got 'nowhere'; try HEAD"):
        check_out("nowhere", repository, tmp_path / "trees")
    (repository / "later").mkdir()
    with pytest.raises(ArgumentError, match=r"baseline_rev: must contain the folder 'later', got 'HEAD'"):
        check_out("HEAD", repository / "later", tmp_path / "trees")
    with pytest.raises(ArgumentError, match=r"baseline_rev: must be used in a git repository"):
        check_out("HEAD", tmp_path, tmp_path / "trees")


def test_without_git_code_is_copied_and_large_files_and_environments_are_linked(tmp_path):
    work = tmp_path / "work"
    (work / ".venv").mkdir(parents=True)
    (work / ".venv/pyvenv.cfg").write_text("")
    (work / "train.py").write_text("print(1)")
    (work / "weights.bin").write_bytes(bytes((1 << 20) + 1))
    (work / "data").symlink_to(tmp_path)
    tree = copy_tree(work, work / "session" / "trees")
    links = {path.name for path in tree.root.iterdir() if path.is_symlink()}
    assert links == {".venv", "weights.bin", "data"}
    assert {path.name for path in tree.root.iterdir()} == links | {"train.py"}
