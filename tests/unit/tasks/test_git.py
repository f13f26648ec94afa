"""What git cannot do is told for what it is, and never taken for a no."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import git
from tests.history import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "repository")
    made.commit("feat: a", {"a": "1"})
    return made


def test_what_git_says_and_its_no(history: History) -> None:
    assert git.output("ls-files", cwd=history.root) == "a\n"
    assert git.output("rev-parse", "--verify", "--quiet", "absent", cwd=history.root) is None
    assert git.problem(history.root) is None


def test_a_folder_in_no_repository_has_no_answer(tmp_path: Path) -> None:
    assert git.output("ls-files", cwd=tmp_path) is None
    reason = git.problem(tmp_path)
    assert reason is not None
    assert reason.startswith("fatal: not a git repository (or any")


def is_somebody_elses(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def has_an_unknown_format(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git" / "config").write_text("[core]\nrepositoryformatversion = 99\n")


def has_a_broken_configuration(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git" / "config").write_text("[core\n")


def is_a_worktree_of_what_is_gone(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git").rename(root / "away")
    (root / ".git").write_text("gitdir: /nowhere/.git/worktrees/mine\n")


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        (is_somebody_elses, "detected dubious ownership in repository at"),
        (has_an_unknown_format, "found 99"),
        (has_a_broken_configuration, "bad config line 1"),
        (is_a_worktree_of_what_is_gone, "not a git repository: /nowhere"),
    ],
)
def test_what_keeps_git_from_answering_is_told_in_its_words(
    history: History,
    defect: Callable[[Path, pytest.MonkeyPatch], None],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    defect(history.root, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        git.output("ls-files", cwd=history.root)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("git: ")
    assert told in line
    assert line.count("\n") == 1
    assert told in str(git.problem(history.root))


def test_without_git_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        subprocess.run(["git"], check=False)  # noqa: S607 - the one that is not there
    assert git.output("ls-files", cwd=tmp_path) is None
    assert git.problem(tmp_path) == "git cannot be run (No such file or directory)"
