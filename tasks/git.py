"""Asks git about the repository."""

import os
import subprocess
from collections.abc import MutableMapping
from pathlib import Path

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
    """Return what git prints; None if it fails, as where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - the one on PATH, as for anybody
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
