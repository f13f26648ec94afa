"""Decides the one required check of a workflow from the results of all its other jobs.

A skipped job is the trap: GitHub shows a matrix of nothing, a job whose `needs` failed and a job
whose condition was wrong all as "skipped", and only the first of them is fine.
"""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tasks.evidence import manifest
from tasks.evidence.manifest import DamagedManifestError, Manifest
from tasks.github.job_names import FED, PLAN


class NeedsError(Exception):
    """What the workflow handed over is not the results of its jobs."""


def problems(needs: str) -> list[str]:
    """Return a line for each job that keeps the workflow from being green.

    Args:
        needs: GitHub's `toJSON(needs)`: the result and the outputs of each job.

    Raises:
        NeedsError: it is something else, or lacks the job `plan`.
    """
    jobs = _read(needs)
    nothing = {job for job, output in FED.items() if _planned(jobs[PLAN], output) == []}
    lines = [_problem(name, str(job.get("result")), nothing) for name, job in jobs.items()]
    return [line for line in lines if line is not None]


def missing(needs: str, results: Path) -> list[str]:
    """Return a line for each planned session that left no manifest of a passed run.

    Its job may be a success all the same: of a session that skipped itself, or did not run.

    Args:
        needs: as in `problems`, which names what failed; nothing is missing until all succeeded.
        results: the folder with what the jobs left.

    Raises:
        NeedsError: as in `problems`.
    """
    jobs = _read(needs)
    planned: list[str] = []
    for job, output in FED.items():
        result = jobs.get(job, {}).get("result")
        found = _planned(jobs[PLAN], output)
        if found is None and result == "success":
            return [f"{PLAN}: did not hand over what it planned; see its log"]
        # Without a job of that name nothing ran of what was planned for it.
        if found and result in {"success", None}:
            planned += found
    files = sorted(results.rglob(f"{manifest.FOLDER.name}/*.json"))
    try:
        ended = {run.session: _ended(run) for run in map(manifest.read, files)}
    except DamagedManifestError as error:
        return [f"{error}; run its job again"]
    return [
        f"{name}: planned, and {ended.get(name, 'nothing')} is what it left; see its log"
        for name in planned
        if ended.get(name) != "passed"
    ]


def _read(needs: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        jobs = json.loads(needs)
    except ValueError as error:
        msg = f"NEEDS is no JSON ({error}); the step needs NEEDS: ${{{{ toJSON(needs) }}}}"
        raise NeedsError(msg) from None
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        msg = "NEEDS holds no jobs; the step needs NEEDS: ${{ toJSON(needs) }}"
        raise NeedsError(msg)
    if PLAN not in jobs:
        msg = f"NEEDS lacks the job {PLAN}; the job green needs every other job of its workflow"
        raise NeedsError(msg)
    return jobs


def _planned(plan: Mapping[str, Any], output: str) -> list[str] | None:
    """Return the sessions in an output of the plan; None if it is lost, which is no empty plan."""
    try:
        return [job["session"] for job in json.loads(plan["outputs"][output])["include"]]
    except (KeyError, TypeError, ValueError):
        return None


def _ended(run: Manifest) -> str:
    """Return how a run ended; one with arguments is not the planned session's, whatever it did."""
    return "a run with arguments" if run.has_arguments else run.result


def _problem(name: str, result: str, nothing_planned: Container[str]) -> str | None:
    if result == "success":
        return None
    if result == "skipped":
        if name in nothing_planned:
            return None
        return f"{name}: skipped, and the plan did not ask for that; see why it did not start"
    return f"{name}: {result}; see its log, then run it again or mend it"
