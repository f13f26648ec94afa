"""A fork made with the commands in docs/fork.md: project renamed, other projects deleted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.project import ROOT, WORKSPACE
from tests import repository

OLD = WORKSPACE.default_project.package
NEW = "churn"
ANOTHER = "demand"


def run_block(heading: str, first: str, root: Path) -> None:
    """Run the commands under `heading` in docs/fork.md, with `first` replacing their first line."""
    page = (ROOT / "docs" / "fork.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^## {heading}\n```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    _, rest = block.split("\n", 1)
    nox = f"{shlex.quote(sys.executable)} -m nox"
    ran = subprocess.run(
        ["bash", "-e", "-c", f"{first}\n{rest.replace('uvx nox', nox)}"],  # noqa: S607 - on PATH
        cwd=root,
        env=repository.outside_of_sessions(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    repository.commit(cwd=root)


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = repository.copy(tmp_path_factory.mktemp("fork") / "a fork", without=())
    run_block("Rename the project", f"OLD={OLD} NEW={NEW}", root)
    for project in WORKSPACE.projects:
        if not project.is_default:
            run_block("Delete a reference project", f"NAME={project.package}", root)
    return root


def nox(root: Path, *arguments: str) -> str:
    ran = repository.nox(*arguments, cwd=root, NO_COLOR="1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def planned(root: Path) -> str:
    """Return the jobs planned for a pull request with only the last commit."""
    return nox(root, "-s", "plan", "--", "pr", "--since", "HEAD^").splitlines()[0]


def test_the_old_name_is_gone(fork: Path) -> None:
    found = repository.git("grep", "-il", OLD.replace("_", "."), cwd=fork).stdout
    assert found == ""


@pytest.mark.parametrize("session", ["lint", "types", f"unit({NEW})", "smoke", "workflows"])
def test_a_session_passes_without_further_edits(fork: Path, session: str) -> None:
    nox(fork, "-s", session)


def test_only_the_renamed_project_is_listed_and_planned(fork: Path) -> None:
    for printed in (nox(fork, "--list"), nox(fork, "-s", "plan", "--", "pr").splitlines()[0]):
        assert re.findall(r"smoke\((\w+)\)", printed) == [NEW]
        for project in WORKSPACE.projects:
            assert project.package not in printed


def test_a_copied_project_is_listed_and_planned(fork: Path) -> None:
    run_block("Add a project", f"FROM={NEW} NEW={ANOTHER}", fork)
    assert f"smoke({ANOTHER})" in nox(fork, "--list")
    module = fork / "src" / ANOTHER / "model.py"
    module.write_text(module.read_text() + "\n# changed\n")
    repository.commit(cwd=fork)
    jobs = planned(fork)
    assert f'"unit({ANOTHER})"' in jobs
    assert f'"smoke({ANOTHER})"' in jobs
    assert f'"unit({NEW})"' not in jobs
