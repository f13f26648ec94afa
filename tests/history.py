"""A real git repository with the history that a test needs."""

from collections.abc import Mapping
from pathlib import Path

from tests.repository import git


class History:
    """A new repository in `root`.

    Args:
        root: a folder that does not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self._run("init", "--quiet", "--initial-branch=main")

    def commit(self, message: str, files: Mapping[str, str | None] | None = None) -> str:
        """Commit `files`, path to content, where None deletes a file; return the commit."""
        self.stage(files or {})
        self._run("commit", "--quiet", "--allow-empty", "--message", message)
        return self._run("rev-parse", "HEAD")

    def stage(self, files: Mapping[str, str | None]) -> None:
        """Stage `files`, path to content, where None deletes a file."""
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_text(text, encoding="utf-8")
        self._run("add", "--all")

    def tag(self, name: str) -> None:
        """Tag HEAD."""
        self._run("tag", name)

    def switch(self, branch: str) -> None:
        """Switch to `branch`; create it if it does not exist."""
        known = git("rev-parse", "--verify", "--quiet", branch, cwd=self.root).returncode == 0
        self._run("switch", "--quiet", *([] if known else ["--create"]), branch)

    def merge(self, branch: str, message: str = "Merge a branch") -> None:
        """Merge `branch` into the current one with a merge commit."""
        self._run("merge", "--quiet", "--no-ff", "--message", message, branch)

    def _run(self, *arguments: str) -> str:
        done = git(*arguments, cwd=self.root)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
