"""How long a tier will take on hosted runners, from what its sessions took here."""

import math
from collections.abc import Iterable
from pathlib import Path

from tasks import manifest
from tasks.catalogue import PlannedJob
from tasks.manifest import FOLDER, DamagedManifestError


def of(jobs: Iterable[PlannedJob], folder: Path = FOLDER) -> list[str]:
    """Return the estimate in one line; none where no job has a manifest of a passed run.

    Each job has a runner of its own, so the longest sets the pace; each is billed by whole
    minutes.
    """
    names = [job.session for job in jobs]
    seconds = {name: found for name in names if (found := _seconds(name, folder)) is not None}
    if not seconds:
        return []
    longest = max(seconds, key=lambda name: seconds[name])
    minutes = sum(max(1, math.ceil(each / 60)) for each in seconds.values())
    unknown = len(names) - len(seconds)
    rest = f"; {unknown} jobs have not passed whole here" if unknown else ""
    line = (
        f"plan: about {seconds[longest]:.0f} s on hosted runners, each job's set-up not counted "
        f"(the longest is {longest}); {minutes} minutes are billed for {len(seconds)} jobs{rest}"
    )
    return [line]


def _seconds(session: str, folder: Path) -> float | None:
    try:
        found = manifest.read(manifest.file_of(session, folder))
    except DamagedManifestError:
        return None
    is_whole = found.result == "passed" and not found.has_arguments
    return found.seconds if is_whole else None
