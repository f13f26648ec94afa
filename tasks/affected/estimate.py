"""How long a tier will take on hosted runners, from what its sessions took here."""

import math
from collections.abc import Iterable
from pathlib import Path

from tasks.catalogue import PlannedJob
from tasks.evidence import manifest
from tasks.evidence.manifest import FOLDER, DamagedManifestError


def of(jobs: Iterable[PlannedJob], folder: Path = FOLDER) -> list[str]:
    """Return the estimate in one line; none where there is no job.

    Each job has a runner of its own, so the longest sets the pace; each is billed by whole
    minutes.
    """
    names = [job.session for job in jobs]
    seconds = {name: found for name in names if (found := seconds_of(name, folder)) is not None}
    if not names:
        return []
    if not seconds:
        return [f"plan: unknown how long: none of {len(names)} jobs has passed whole here"]
    longest = max(seconds, key=lambda name: seconds[name])
    minutes = sum(max(1, math.ceil(each / 60)) for each in seconds.values())
    unknown = len(names) - len(seconds)
    rest = f"; unknown for {unknown} of {len(names)}, not passed whole here" if unknown else ""
    line = (
        f"plan: about {math.ceil(seconds[longest])} s on hosted runners, each job's set-up not "
        f"counted (the longest is {longest}); {minutes} minutes are billed for {len(seconds)} jobs"
        f"{rest}"
    )
    return [line]


def seconds_of(session: str, folder: Path = FOLDER) -> float | None:
    """Return how long a session took here when it last passed whole, or None."""
    try:
        found = manifest.read(manifest.file_of(session, folder))
    except DamagedManifestError:
        return None
    is_whole = found.result == "passed" and not found.has_arguments
    return found.seconds if is_whole else None
