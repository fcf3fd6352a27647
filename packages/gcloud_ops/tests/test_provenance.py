"""Where a sweep comes from: a repository's commit, and its difference."""

import subprocess
from pathlib import Path

import pytest

from gcloud_ops import provenance


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, as somebody."""
    who = ["-c", "user.name=Ana", "-c", "user.email=ana@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with one commit."""
    git(tmp_path, "init", "-q", "-b", "study")
    (tmp_path / "train.py").write_text("print(1)\n")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "First")
    return tmp_path


def test_a_clean_repository(repository: Path) -> None:
    """Its commit and branch; no difference."""
    found = provenance.state_of(repository)
    assert found is not None
    source, diff = found
    assert (source.commit, source.branch) == (git(repository, "rev-parse", "HEAD"), "study")
    assert not source.dirty
    assert diff == b""


def test_a_difference_can_be_applied(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is tracked and changed, binary too; what git does not track stays out."""
    (repository / "train.py").write_bytes(b"print(2)\n\x00\xff")
    (repository / "key.json").write_text("a secret")
    found = provenance.state_of(repository / ".")
    assert found is not None
    source, diff = found
    assert source.dirty
    assert b"a secret" not in diff
    again = tmp_path_factory.mktemp("again") / "clone"
    git(repository.parent, "clone", "-q", str(repository), str(again))
    (again.parent / "source.diff").write_bytes(diff)
    git(again, "apply", str(again.parent / "source.diff"))
    assert (again / "train.py").read_bytes() == b"print(2)\n\x00\xff"


def test_a_large_difference_is_left_out(repository: Path) -> None:
    """It is said that there is one."""
    (repository / "train.py").write_text("x" * 79 + "\n")
    many = "".join(f"{number:078d}\n" for number in range(provenance.LARGEST_DIFF // 79 + 1))
    (repository / "train.py").write_text(many)
    found = provenance.state_of(repository)
    assert found is not None
    assert found[0].dirty
    assert found[1] == b""


def test_no_repository(tmp_path: Path) -> None:
    """And one without a commit, and a detached head."""
    assert provenance.state_of(tmp_path / "nowhere") is None
    git(tmp_path, "init", "-q")
    assert provenance.state_of(tmp_path) is None


def test_a_detached_head(repository: Path) -> None:
    """It has a commit, and no branch."""
    git(repository, "checkout", "-q", "--detach")
    found = provenance.state_of(repository)
    assert found is not None
    assert found[0].branch == ""
