"""Tests ignore git variables that point at the user's repository (`git rebase --exec`)."""

import os
import subprocess
import sys
from pathlib import Path

from tasks.project import ROOT
from tests.history import History
from tests.repository import git


def test_tests_and_sessions_leave_the_users_repository_alone(tmp_path: Path) -> None:
    users = History(tmp_path / "users")
    head = users.commit("feat: the user's", {"a": "1"})
    index = users.root / ".git" / "index"
    config = users.root / ".git" / "config"
    before = index.read_bytes(), config.read_bytes()
    hostile = {
        "GIT_DIR": str(users.root / ".git"),
        "GIT_WORK_TREE": str(users.root),
        "GIT_INDEX_FILE": str(index),
        "GIT_OBJECT_DIRECTORY": str(users.root / ".git" / "objects"),
        "GIT_PREFIX": "tests/",
        "GIT_CONFIG_PARAMETERS": "'core.bare=true'",
    }
    # The first commits, tags and merges; the second runs Nox in a copy of this repository.
    chosen = ["test_versions.py", "test_release.py::test_nox_runs_the_release_sessions_by_name"]
    tests = [f"tests/unit/tasks/{each}" for each in chosen]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, **hostile},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert (index.read_bytes(), config.read_bytes()) == before
    assert git("rev-list", "--all", cwd=users.root).stdout.split() == [head]
