"""Decides a workflow's only required check from the results of all its other jobs.

Skipped jobs are the trap. GitHub shows an empty matrix, a job whose `needs` failed and a job
whose condition was wrong all as "skipped", but only the empty matrix is fine.
"""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tasks.evidence import manifest
from tasks.evidence.manifest import DamagedManifestError, Manifest
from tasks.github.job_names import FED, PLAN


class NeedsError(Exception):
    """The workflow did not pass the results of its jobs."""


def problems(needs: str) -> list[str]:
    """Return one line for each job that keeps the workflow from being green.

    Args:
        needs: GitHub's `toJSON(needs)`: the result and the outputs of each job.

    Raises:
        NeedsError: `needs` is not that, or lacks the job `plan`.
    """
    jobs = _read(needs)
    unplanned = {job for job, output in FED.items() if _planned(jobs[PLAN], output) == []}
    lines = [_problem(name, str(job.get("result")), unplanned) for name, job in jobs.items()]
    return [line for line in lines if line is not None]


def missing(needs: str, results: Path) -> list[str]:
    """Return one line for each planned session without the manifest of a passed run.

    Its job may have succeeded nevertheless, if the session skipped itself or did not run.

    Args:
        needs: as in `problems`, which reports failed jobs; this checks only the successful ones.
        results: the folder with the files that the jobs left.

    Raises:
        NeedsError: as in `problems`.
    """
    jobs = _read(needs)
    planned: list[str] = []
    for job, output in FED.items():
        result = jobs.get(job, {}).get("result")
        found = _planned(jobs[PLAN], output)
        if found is None and result == "success":
            return [f"{PLAN}: its output {output!r} is missing or damaged; see its log"]
        # If the workflow lacks the job, none of its planned sessions ran.
        if found and result in {"success", None}:
            planned += found
    files = sorted(results.rglob(f"{manifest.FOLDER.name}/*.json"))
    try:
        outcomes = {run.session: _outcome(run) for run in map(manifest.read, files)}
    except DamagedManifestError as error:
        return [f"{error}; run its job again"]
    return [
        f"{name}: was planned but did not pass ({outcomes.get(name, 'no manifest')}); see its log"
        for name in planned
        if outcomes.get(name) != "passed"
    ]


def _read(needs: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        jobs = json.loads(needs)
    except ValueError as error:
        msg = f"NEEDS is not JSON ({error}); set NEEDS: ${{{{ toJSON(needs) }}}} in the step"
        raise NeedsError(msg) from None
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        msg = "NEEDS contains no jobs; set NEEDS: ${{ toJSON(needs) }} in the step"
        raise NeedsError(msg)
    if PLAN not in jobs:
        msg = f"NEEDS lacks the job {PLAN}; the job green must need all other jobs of its workflow"
        raise NeedsError(msg)
    return jobs


def _planned(plan: Mapping[str, Any], output: str) -> list[str] | None:
    """Return the sessions in an output of the plan; None if it is missing or damaged."""
    try:
        return [job["session"] for job in json.loads(plan["outputs"][output])["include"]]
    except (KeyError, TypeError, ValueError):
        return None


def _outcome(run: Manifest) -> str:
    """Return how a run ended; a run with arguments does not count as the planned session."""
    return "a run with arguments" if run.has_arguments else run.result


def _problem(name: str, result: str, unplanned: Container[str]) -> str | None:
    if result == "success":
        return None
    if result == "skipped":
        if name in unplanned:
            return None
        return f"{name}: skipped, but not because of an empty plan; see why it did not start"
    return f"{name}: {result}; see its log, then fix it or run it again"
