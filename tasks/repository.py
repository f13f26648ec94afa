"""Sessions about the repository itself: its lock, an editor's environment, the plan for CI."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import nox

from tasks import environment, lockfile, uv
from tasks.catalogue import PlannedJob, Tier, session
from tasks.catalogue import plan as plan_of
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
    """
    tier, *options = session.posargs or [""]
    if tier not in get_args(Tier) or options[::2] != ["--without"] * (len(options) // 2):
        uv.stop(f"plan: name one tier, as in: nox -s plan -- pr (of {', '.join(get_args(Tier))})")
    jobs = plan_of(cast("Tier", tier))
    for name in options[1::2]:
        jobs = _without(jobs, name, tier)
    matrix = json.dumps({"include": [_as_matrix(job) for job in jobs]})
    print(matrix)
    github_output = os.environ.get("GITHUB_OUTPUT")
    if github_output:
        with Path(github_output).open("a", encoding="utf-8") as file:
            file.write(f"matrix={matrix}\n")


def _without(jobs: Sequence[PlannedJob], name: str, tier: str) -> list[PlannedJob]:
    kept = [job for job in jobs if job.session != name]
    if len(kept) == len(jobs):
        uv.stop(f"plan: --without {name}: the tier {tier} has no such job")
    return kept


def _as_matrix(job: PlannedJob) -> dict[str, Any]:
    """Return what a workflow's matrix says of `job`; the labels are those of pyproject.toml."""
    return {**asdict(job), "labels": PROJECT.runners[job.runner]}
