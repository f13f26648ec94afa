"""Sessions about the repository itself: its lock, an editor's environment, the plan for CI."""

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
from tasks.errors import stop
from tasks.evidence import manifest
from tasks.evidence import parity as comparison
from tasks.github.job_names import PROJECTS
from tasks.images import container
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE


@session(timeout_minutes=10, inputs=[])
def lock(session: nox.Session) -> None:
    """Renew uv.lock after a change to pyproject.toml, in the form that names no index.

    Pins stay as they are unless asked: nox -s lock -- --upgrade-package torch, or -- --upgrade.
    """
    session.log(lockfile.renew(ROOT, session.posargs))


@session(timeout_minutes=15, inputs=[])
def dev(session: nox.Session) -> None:
    """Make the editor's .venv from the lock, with every tool, and install the git hooks.

    With -- --verify it makes nothing, and compares every file in .venv and .nox with the digest
    that its package has of it.
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
    """End the session if a file of an environment is not what was installed."""
    folders = [ROOT / ".venv", *sorted((ROOT / ".nox").glob("*"))]
    made = [folder for folder in folders if (folder / "pyvenv.cfg").is_file()]
    if not made:
        stop("dev: there is no environment here to verify; any session makes one")
    lines = [line for folder in made for line in installed.changed(folder)]
    show(*lines)
    if lines:
        session.error(
            f"{len(lines)} files are not what was installed. uv's cache may hold them too, as it "
            "links files: uv cache clean PACKAGE, then delete the environment"
        )
    session.log(f"As installed: {', '.join(folder.name for folder in made)}")


@session(timeout_minutes=5, inputs=[])
def plan(session: nox.Session) -> None:
    """Print a tier's jobs as JSON for a workflow's matrix: nox -s plan -- pr.

    On GitHub that becomes the step's output `matrix`. A workflow that runs some sessions itself,
    one after the other, leaves them out: -- release --without train --without evaluate.
    With -- pr --since origin/main only what the change affects; --label gpu and --label
    full-matrix (or PLAN_LABELS=gpu,…) add to it. What is left out, and why, goes to stderr.
    PLAN_IMAGE=ghcr.io/OWNER/NAME is where it looks for the image of the lock; the jobs that can
    run in it have its `digest`, and go to the output `contained`. The output `projects` names every
    project, for jobs that run once for each.
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
    """Yield the outputs of GitHub's step: jobs on the runner itself, jobs in the image, projects.

    The jobs are in two outputs so that the workflow itself says that an image is named by digest:
    for one job to run with an image or without, the whole name would have to come from here.
    """
    for name, is_inside in (("matrix", False), ("contained", True)):
        part = [job for job in jobs if bool(job["digest"]) == is_inside]
        yield f"{name}={json.dumps({'include': part})}\n"
    projects = [{"project": each.package, "outputs": each.outputs} for each in WORKSPACE.projects]
    yield f"{PROJECTS}={json.dumps({'include': projects})}\n"


def _as_matrix(job: PlannedJob, digest: str) -> dict[str, Any]:
    """Return what a workflow's matrix says of `job`; the labels are those of pyproject.toml."""
    said = asdict(job)
    of_image = digest if said.pop("in_image") else ""
    # What GitHub calls an artifact or a cache has no commas and no slashes.
    said["slug"] = manifest.file_of(job.session).stem
    return {**said, "labels": WORKSPACE.runners[job.runner], "digest": of_image}


@session(timeout_minutes=5, inputs=[])
def parity(session: nox.Session) -> None:
    """Compare two sets of manifests and name each difference: nox -s parity -- local/ ci/.

    The first folder is called "you", the second "CI"; artifacts/manifests holds this checkout's.
    """
    found = comparison.of_folders(session.posargs)
    show(*found.differences)
    if found.differences:
        session.error(f"differences between you and CI: {len(found.differences)}")
    session.log(f"The same in both: {', '.join(found.sessions)}")
