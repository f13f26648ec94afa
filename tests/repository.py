"""This repository for tests: its files, copies of it, and git and Nox in either."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tasks.environments import uv
from tasks.project import ROOT, members

# The sessions and the files they read; of a package, only its declarations.
_SESSIONS = re.compile(
    r"noxfile\.py|pyproject\.toml|uv\.lock|Dockerfile|\.(git|docker)ignore|\.gitattributes"
    r"|(tasks|docker|\.github)/.+|configs/[^/]+|src/[^/]+/(pyproject\.toml|[^/]+\.schema\.json)"
)


def git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run git with a fixed identity, whether or not this machine has one configured."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    identity += ["-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments],  # noqa: S607 - the git on PATH, as for any user
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def commit(*paths: str, cwd: Path) -> None:
    """Commit `paths`, or everything."""
    git("add", "--all", *paths, cwd=cwd)
    committed = git("commit", "--quiet", "--message", "change", cwd=cwd)
    assert committed.returncode == 0, committed.stderr


def nox(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Nox in a copy of the repository, as if not called from a session."""
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=cwd,
        env={**outside_of_sessions(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def outside_of_sessions() -> dict[str, str]:
    """Return this process's environment without the variables that mark a Nox session."""
    inside = ("CHECK_INPUTS", "NOX_CURRENT_SESSION", "OPENED_FILES_LOG", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in inside}


def files() -> list[str]:
    """List the files that git tracks or would track if added."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard").stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def real_uv() -> str:
    """Return the uv that actually runs: the one on PATH may be a shim."""
    code = "import os; print(os.environ['UV'])"
    command = [uv.executable(), "run", "--no-project", f"--python={sys.executable}", "python"]
    return subprocess.run(
        [*command, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def copy(root: Path, *, without: tuple[str, ...] = ("benchmarks/", "docs/", "tests/")) -> Path:
    """Copy the packages and the sessions to `root` and commit them in a new repository."""
    return _copy(root, [name for name in files() if not name.startswith(without)])


def copy_of_sessions(root: Path) -> Path:
    """Copy the sessions and the packages' declarations to `root`; stand-ins replace the rest.

    Copying a file reads it, and the sessions' tests must not depend on packages or pages.
    """
    for folder in members():
        module = root / "src" / folder.name / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text(f'"""Stands for {folder.name}."""\n', encoding="utf-8")
        module.with_name("LICENSE").write_text("The licence.\n", encoding="utf-8")
    for page in ("CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"):
        (root / page).write_text("# A page\n", encoding="utf-8")
    changelog = "# Changelog\n\n## [Unreleased]\n\n### Added\n- A page.\n"
    (root / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    return _copy(root, [name for name in files() if _SESSIONS.fullmatch(name)])


def _copy(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    git("init", "--quiet", cwd=root)
    git("add", "--all", cwd=root)
    committed = git("commit", "--quiet", "--message", "copy", cwd=root)
    committed.check_returncode()
    return root
