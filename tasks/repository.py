"""Sessions about the repository itself: its lock, an editor's environment, the plan for CI."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import cast, get_args

import nox

from tasks import environment, lockfile, uv
from tasks.catalogue import Tier, session
from tasks.catalogue import plan as plan_of
from tasks.project import ROOT


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

    On GitHub the same JSON becomes the step's output `matrix`.
    """
    if len(session.posargs) != 1 or session.posargs[0] not in get_args(Tier):
        uv.stop(f"plan: name one tier, as in: nox -s plan -- pr (of {', '.join(get_args(Tier))})")
    jobs = plan_of(cast("Tier", session.posargs[0]))
    matrix = json.dumps({"include": [asdict(job) for job in jobs]})
    print(matrix)
    github_output = os.environ.get("GITHUB_OUTPUT")
    if github_output:
        with Path(github_output).open("a", encoding="utf-8") as file:
            file.write(f"matrix={matrix}\n")
