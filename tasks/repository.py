"""Sessions about the repository itself: its lock, an editor's environment, the plan for CI."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nox

from tasks import affected, environment, estimate, lockfile
from tasks import parity as comparison
from tasks.catalogue import PlannedJob, session
from tasks.project import PROJECT, ROOT


@session(timeout_minutes=10, inputs=[])
def lock(session: nox.Session) -> None:
    """Renew uv.lock after a change to pyproject.toml, in the form that names no index.

    Pins stay as they are unless asked: nox -s lock -- --upgrade-package torch, or -- --upgrade.
    """
    session.log(lockfile.renew(ROOT, session.posargs))


@session(timeout_minutes=15, inputs=[])
def dev(session: nox.Session) -> None:
    """Make the editor's .venv from the lock, with every tool, and install the git hooks."""
    folder = environment.prepare(environment.of_editor(environment.default_cell()))
    environment.run(session, folder, "pre-commit", "install")
    session.log(f"In this shell: source {folder.relative_to(ROOT)}/bin/activate")


@session(timeout_minutes=5, inputs=[])
def plan(session: nox.Session) -> None:
    """Print a tier's jobs as JSON for a workflow's matrix: nox -s plan -- pr.

    On GitHub the same JSON becomes the step's output `matrix`. A workflow that runs some sessions
    itself, one after the other, leaves them out: -- release --without train --without evaluate.
    With -- pr --since origin/main only what the change affects; --label gpu and --label
    full-matrix (or PLAN_LABELS=gpu,…) add to it. What is left out, and why, goes to stderr.
    """
    chosen = affected.plan(session.posargs)
    matrix = json.dumps({"include": [_as_matrix(job) for job in chosen.jobs]})
    print(matrix)
    for line in (*chosen.notes, *estimate.of(chosen.jobs)):
        print(line, file=sys.stderr)
    github_output = os.environ.get("GITHUB_OUTPUT")
    if github_output:
        with Path(github_output).open("a", encoding="utf-8") as file:
            file.write(f"matrix={matrix}\n")


def _as_matrix(job: PlannedJob) -> dict[str, Any]:
    """Return what a workflow's matrix says of `job`; the labels are those of pyproject.toml."""
    return {**asdict(job), "labels": PROJECT.runners[job.runner]}


@session(timeout_minutes=5, inputs=[])
def parity(session: nox.Session) -> None:
    """Compare two sets of manifests and name each difference: nox -s parity -- local/ ci/.

    The first folder is called "you", the second "CI"; artifacts/manifests holds this checkout's.
    """
    found = comparison.of_folders(session.posargs)
    print(*found.differences, sep="\n", end="\n" if found.differences else "")
    if found.differences:
        session.error(f"differences between you and CI: {len(found.differences)}")
    session.log(f"The same in both: {', '.join(found.sessions)}")
