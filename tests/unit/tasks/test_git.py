"""A failure of git is reported as such and never mistaken for a negative answer."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import git
from tests.history import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    repository = History(tmp_path / "repository")
    repository.commit("feat: a", {"a": "1"})
    return repository


def test_output_of_git_is_returned_and_a_negative_answer_is_none(history: History) -> None:
    assert git.output("ls-files", cwd=history.root) == "a\n"
    assert git.output("rev-parse", "--verify", "--quiet", "absent", cwd=history.root) is None
    assert git.problem(history.root) is None


def test_folder_outside_a_repository_has_no_answer(tmp_path: Path) -> None:
    assert git.output("ls-files", cwd=tmp_path) is None
    reason = git.problem(tmp_path)
    assert reason is not None
    assert reason.startswith("fatal: not a git repository (or any")


def owned_by_another_user(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def unknown_format(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git" / "config").write_text("[core]\nrepositoryformatversion = 99\n")


def broken_configuration(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git" / "config").write_text("[core\n")


def worktree_of_a_deleted_repository(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / ".git").rename(root / "away")
    (root / ".git").write_text("gitdir: /nowhere/.git/worktrees/mine\n")


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        (owned_by_another_user, "detected dubious ownership in repository at"),
        (unknown_format, "found 99"),
        (broken_configuration, "bad config line 1"),
        (worktree_of_a_deleted_repository, "not a git repository: /nowhere"),
    ],
)
def test_git_failure_is_reported_in_gits_words(
    history: History,
    defect: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    defect(history.root, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        git.output("ls-files", cwd=history.root)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("git: ")
    assert message in line
    assert line.count("\n") == 1
    assert message in str(git.problem(history.root))


def test_without_git_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        subprocess.run(["git"], check=False)  # noqa: S607 - PATH must have no git
    assert git.output("ls-files", cwd=tmp_path) is None
    assert git.problem(tmp_path) == "git cannot be run (No such file or directory)"
