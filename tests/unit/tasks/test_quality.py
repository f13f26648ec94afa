"""The session `lint` in temporary repositories, with real git and real pre-commit."""

import subprocess
from pathlib import Path
from typing import IO, cast

import nox
import pytest

from tasks.sessions import quality
from tests import nox_session
from tests.nox_session import FailedError
from tests.repository import commit, git

HOOK = """\
  - repo: local
    hooks:
      - {{id: {name}, name: {name}, entry: "true", language: unsupported, files: '{files}'}}
"""


class Session(nox_session.Session):
    """Runs commands in the folder `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def run(self, *command: str, env: dict[str, str], stdout: IO[str], **_: object) -> None:
        subprocess.run(command, cwd=self.root, env=env, stdout=stdout, check=True)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session in a repository with one file and a hook that checks it."""
    monkeypatch.setattr(quality, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("")
    write_hooks(tmp_path, a=r"\.py$")
    git("init", "--quiet", cwd=tmp_path)
    return Session(tmp_path)


def write_hooks(root: Path, **files: str) -> None:
    texts = [HOOK.format(name=name, files=pattern) for name, pattern in files.items()]
    (root / ".pre-commit-config.yaml").write_text("repos:\n" + "".join(texts))


def lint(session: Session) -> list[str]:
    quality.lint(cast("nox.Session", session))
    return session.logged


def test_tracked_files_are_counted(session: Session) -> None:
    commit(cwd=session.root)
    assert lint(session) == ["2 files are tracked"]


def test_repository_without_tracked_files_does_not_pass(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        lint(session)
    assert ended.value.code == 2
    assert "git tracks no file here, so there is nothing to check" in capsys.readouterr().err


def test_hook_that_checks_no_file_does_not_pass(session: Session) -> None:
    write_hooks(session.root, a=r"\.py$", b=r"\.rs$")
    commit(cwd=session.root)
    with pytest.raises(FailedError, match=r"checked no file: b; fix files: in \.pre-commit"):
        lint(session)


def test_unchecked_files_are_named(session: Session) -> None:
    (session.root / ".gitignore").write_text("data/\n*.pyc\n")
    commit(cwd=session.root)
    for name in ("src/new.py", "src/data/loading.py", "data/big.py", "src/a.pyc"):
        (session.root / name).parent.mkdir(exist_ok=True)
        (session.root / name).write_text("")
    assert lint(session)[:2] == [
        "Not checked, because git does not track them: src/new.py",
        "Not checked, because .gitignore hides them: src/data/loading.py",
    ]
