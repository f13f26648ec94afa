"""Asks git about the repository."""

import os
import subprocess
from collections.abc import MutableMapping
from pathlib import Path

from tasks.errors import stop

# Of a folder that is in none; a damaged one is told otherwise.
_NO_REPOSITORY = "not a git repository (or any"

# What says where a repository, its index or its objects are: `git rev-parse --local-env-vars`,
# and the two that may come from anywhere. git sets them for hooks, `git rebase --exec` and aliases.
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
    """Remove the variables by which git works on another repository than that of its folder.

    A session or a test that inherits GIT_DIR would change the user's repository instead of a copy.
    Git hooks keep them: a partial commit has an index of its own.
    """
    for name in _LOCATIONS:
        variables.pop(name, None)


def output(*arguments: str, cwd: Path) -> str | None:
    """Return what git prints; None where it says no, or there is no git or no repository.

    Whatever else keeps it from answering, such as a repository that is somebody else's, ends
    everything with git's own words: it must not be taken for a no.
    """
    try:
        done = _run(*arguments, cwd=cwd)
    except OSError:
        return None
    if done.returncode == 0:
        return done.stdout
    reason = problem(cwd)
    if reason is not None and _NO_REPOSITORY not in reason:
        stop(f"git: {reason}")
    return None


def problem(cwd: Path) -> str | None:
    """Return why git cannot answer in `cwd`, in its own words; None if it can."""
    try:
        done = _run("rev-parse", "--git-dir", cwd=cwd)
    except OSError as error:
        return f"git cannot be run ({error.strerror})"
    return None if done.returncode == 0 else " ".join(done.stderr.split())


def _run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", *arguments],  # noqa: S607 - the one on PATH, as for anybody
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
