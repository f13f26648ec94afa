"""Estimates how long a tier takes on hosted runners, from its sessions' durations here."""

import math
from collections.abc import Iterable
from pathlib import Path

from tasks.catalogue import PlannedJob
from tasks.evidence import manifest
from tasks.evidence.manifest import FOLDER, DamagedManifestError


def of(jobs: Iterable[PlannedJob], folder: Path = FOLDER) -> list[str]:
    """Return the estimate as one line, or no line if there are no jobs.

    Jobs run in parallel, one per runner, so the longest determines the duration; each is billed
    in whole minutes.
    """
    names = [job.session for job in jobs]
    seconds = {name: found for name in names if (found := seconds_of(name, folder)) is not None}
    if not names:
        return []
    if not seconds:
        return [f"plan: duration unknown: none of the {len(names)} jobs has passed in full here"]
    longest = max(seconds, key=lambda name: seconds[name])
    minutes = sum(max(1, math.ceil(each / 60)) for each in seconds.values())
    unknown = len(names) - len(seconds)
    rest = f"; unknown for {unknown} of {len(names)} that have not passed here" if unknown else ""
    line = (
        f"plan: about {math.ceil(seconds[longest])} s on hosted runners, not counting each job's "
        f"set-up (the longest is {longest}); {minutes} minutes billed for {len(seconds)} jobs{rest}"
    )
    return [line]


def seconds_of(session: str, folder: Path = FOLDER) -> float | None:
    """Return how long a session's last run here took, or None unless that run passed in full."""
    try:
        found = manifest.read(manifest.file_of(session, folder))
    except DamagedManifestError:
        return None
    is_full = found.result == "passed" and not found.has_arguments
    return found.seconds if is_full else None
