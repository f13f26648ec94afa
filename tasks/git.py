"""Asks git about the repository."""

import os
import subprocess
from collections.abc import MutableMapping
from pathlib import Path

from tasks.errors import abort

# git's error outside a repository; for a damaged repository it prints another.
_NO_REPOSITORY = "not a git repository (or any"

# Variables that locate a repository, its index or its objects. git sets them for hooks, aliases
# and `git rebase --exec`. `git rev-parse --local-env-vars` lists them, except
# GIT_CEILING_DIRECTORIES and GIT_NAMESPACE.
_LOCATIONS = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)


def forget_locations(variables: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables that point git at a repository other than the current folder's.

    A session or a test that inherits GIT_DIR would change the user's repository instead of a copy.
    Git hooks keep them, since a partial commit uses a separate index.
    """
    for name in _LOCATIONS:
        variables.pop(name, None)


def output(*arguments: str, cwd: Path) -> str | None:
    """Return what git prints; None if the command fails, or there is no git or no repository.

    Any other problem, such as a repository that another user owns, aborts with git's message:
    it must not be mistaken for a negative answer.
    """
    try:
        done = _run(*arguments, cwd=cwd)
    except OSError:
        return None
    if done.returncode == 0:
        return done.stdout
    reason = problem(cwd)
    if reason is not None and _NO_REPOSITORY not in reason:
        abort(f"git: {reason}")
    return None


def problem(cwd: Path) -> str | None:
    """Return git's reason for not working in `cwd`; None if it works."""
    try:
        done = _run("rev-parse", "--git-dir", cwd=cwd)
    except OSError as error:
        return f"git cannot be run ({error.strerror})"
    return None if done.returncode == 0 else " ".join(done.stderr.split())


def _run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", *arguments],  # noqa: S607 - the git on PATH
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
