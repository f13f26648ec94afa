"""Sessions about the repository itself: the lock, the editor's environment, the plan for CI."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nox

from tasks.affected import estimate, selection
from tasks.catalogue import PlannedJob, session
from tasks.display import show
from tasks.environments import environment, installed, lockfile
from tasks.errors import abort
from tasks.evidence import manifest
from tasks.evidence import parity as comparison
from tasks.github.job_names import PROJECTS
from tasks.images import container
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE


@session(timeout_minutes=10, inputs=[])
def lock(session: nox.Session) -> None:
    """Update uv.lock after a change to pyproject.toml, in the form that names no index.

    Keeps existing pins, except with nox -s lock -- --upgrade-package torch, or -- --upgrade.
    """
    session.log(lockfile.renew(ROOT, session.posargs))


@session(timeout_minutes=15, inputs=[])
def dev(session: nox.Session) -> None:
    """Create the editor's .venv from the lock, with every tool, and install the git hooks.

    With -- --verify it creates nothing, and compares every file in .venv and .nox with the digest
    that its package recorded.
    """
    parser = Options("dev")
    parser.add_argument("--verify", action="store_true")
    if parser.parse_args(session.posargs).verify:
        _verify(session)
        return
    folder = environment.prepare(environment.of_editor(environment.default_cell()))
    environment.run(session, folder, "pre-commit", "install")
    session.log(f"In this shell: source {folder.relative_to(ROOT)}/bin/activate")


def _verify(session: nox.Session) -> None:
    """End the session if a file of an environment differs from the installed one."""
    folders = [ROOT / ".venv", *sorted((ROOT / ".nox").glob("*"))]
    made = [folder for folder in folders if (folder / "pyvenv.cfg").is_file()]
    if not made:
        abort("dev: there is no environment here to verify; run any session to create one")
    lines = [line for folder in made for line in installed.changed(folder)]
    show(*lines)
    if lines:
        session.error(
            f"{len(lines)} files changed since they were installed. uv links files, so its cache "
            "may be changed too; run uv cache clean PACKAGE, then delete the environment"
        )
    session.log(f"Unchanged since installation: {', '.join(folder.name for folder in made)}")


@session(timeout_minutes=5, inputs=[])
def plan(session: nox.Session) -> None:
    """Print a tier's jobs as JSON for a workflow's matrix: nox -s plan -- pr.

    On GitHub the JSON becomes the step's output `matrix`. A workflow that runs some sessions
    itself excludes them: -- release --without train --without evaluate.
    With -- pr --since origin/main, plans only the sessions that the change affects; --label gpu and
    --label full-matrix (or PLAN_LABELS=gpu,…) add sessions. Excluded sessions and the reasons are
    printed on stderr.
    With PLAN_IMAGE=ghcr.io/OWNER/NAME, looks there for the image of the lock; the jobs that can run
    in it get its `digest` and are written to the output `contained`. The output `projects` lists
    every project, for jobs that run once per project.
    """
    chosen = selection.plan(session.posargs)
    found = container.of(chosen.jobs, os.environ.get("PLAN_IMAGE", ""))
    jobs = [_as_matrix(job, found.digest) for job in chosen.jobs]
    print(json.dumps({"include": jobs}))
    for line in (*chosen.notes, *found.notes, *estimate.of(chosen.jobs)):
        print(line, file=sys.stderr)
    if chosen.off:
        print(chosen.off, file=sys.stderr)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if chosen.off and summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"{chosen.off}\n")
    github_output = os.environ.get("GITHUB_OUTPUT")
    if github_output:
        with Path(github_output).open("a", encoding="utf-8") as file:
            file.writelines(_outputs(jobs))


def _outputs(jobs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the step's outputs: jobs on the runner itself, jobs in the image, and projects.

    Two outputs let the workflow itself pin the image by digest. If one job ran with or without an
    image, the plan would have to supply the image's whole name.
    """
    for name, is_inside in (("matrix", False), ("contained", True)):
        part = [job for job in jobs if bool(job["digest"]) == is_inside]
        yield f"{name}={json.dumps({'include': part})}\n"
    projects = [{"project": each.package, "outputs": each.outputs} for each in WORKSPACE.projects]
    yield f"{PROJECTS}={json.dumps({'include': projects})}\n"


def _as_matrix(job: PlannedJob, digest: str) -> dict[str, Any]:
    """Return the matrix entry of `job`, with the runner labels from pyproject.toml."""
    entry = asdict(job)
    image_digest = digest if entry.pop("in_image") else ""
    # Names of artifacts and caches on GitHub must not contain commas or slashes.
    entry["slug"] = manifest.file_of(job.session).stem
    return {**entry, "labels": WORKSPACE.runners[job.runner], "digest": image_digest}


@session(timeout_minutes=5, inputs=[])
def parity(session: nox.Session) -> None:
    """Compare two sets of manifests and list the differences: nox -s parity -- local/ ci/.

    The report calls the first folder "you" and the second "CI". This checkout's manifests are in
    artifacts/manifests.
    """
    found = comparison.of_folders(session.posargs)
    show(*found.differences)
    if found.differences:
        session.error(f"differences between you and CI: {len(found.differences)}")
    session.log(f"The same in both: {', '.join(found.sessions)}")
