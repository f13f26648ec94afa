"""Decides the one required check of a workflow from the results of all its other jobs.

A skipped job is the trap: GitHub shows a matrix of nothing, a job whose `needs` failed and a job
whose condition was wrong all as "skipped", and only the first of them is fine.
"""

import json
from collections.abc import Mapping
from typing import Any

# The job whose output is the plan, and the job that its matrix feeds.
PLAN, FED = "plan", "session"


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
    asked_for = _is_empty(jobs[PLAN])
    lines = [_problem(name, str(job.get("result")), asked_for) for name, job in jobs.items()]
    return [line for line in lines if line is not None]


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


def _is_empty(plan: Mapping[str, Any]) -> bool:
    """Whether the plan was made, and says that there is nothing to run."""
    try:
        return bool(json.loads(plan["outputs"]["matrix"])["include"] == [])
    except (KeyError, TypeError, ValueError):
        return False  # no plan is not an empty plan


def _problem(name: str, result: str, nothing_planned: bool) -> str | None:  # noqa: FBT001
    if result == "success":
        return None
    if result == "skipped":
        if name == FED and nothing_planned:
            return None
        return f"{name}: skipped, and the plan did not ask for that; see why it did not start"
    return f"{name}: {result}; see its log, then run it again or mend it"
