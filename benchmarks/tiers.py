"""Adds up what the pull-request tier takes for a change in one place, from the last runs here.

    uvx nox -t pr -k "not audit"     # once to make the environments, once more to measure
    uvx --from nox python benchmarks/tiers.py

Prints a Markdown table: for each place, the jobs that `nox -s plan -- pr --since …` leaves for a
change there, what they took one after the other, and the longest of them.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.affected import estimate, selection  # noqa: E402 - the path is set above
from tasks.project import WORKSPACE  # noqa: E402
from tests.repository import commit, git  # noqa: E402

import noxfile  # noqa: E402, F401 - declares every session

LIBRARIES = ("training", "gates")
NEVER_HERE = ("audit",)  # it asks a server, whose speed is not ours


def main() -> None:
    """Add up, and print."""
    places = {
        **{each.package: f"src/{each.package}/project.py" for each in WORKSPACE.projects},
        **{name: f"src/{name}/__init__.py" for name in LIBRARIES},
        "tasks": "tasks/options.py",
        "docs only": "docs/ci.md",
    }
    print("| a change in | jobs | one after the other | the longest |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder, "clone")
        git("clone", "--quiet", str(ROOT), str(scratch), cwd=Path(folder))
        for place, name in places.items():
            jobs = _planned(scratch, name)
            print(f"| {place} | {_row({job: estimate.seconds_of(job) for job in jobs})} |")


def _planned(scratch: Path, name: str) -> list[str]:
    """Return the sessions that a change of one file asks for."""
    with (scratch / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    commit(cwd=scratch)
    plan = selection.plan(["pr", "--since", "HEAD^"], scratch)
    return [job.session for job in plan.jobs if job.session not in NEVER_HERE]


def _row(seconds: dict[str, float | None]) -> str:
    known = {job: found for job, found in seconds.items() if found is not None}
    if not known:
        return f"{len(seconds)} | unknown | unknown"
    missing = sorted(seconds.keys() - known)
    rest = f", without {', '.join(missing)}" if missing else ""
    longest = max(known, key=lambda job: known[job])
    return f"{len(seconds)} | {sum(known.values()):.0f} s{rest} | {longest}, {known[longest]:.0f} s"


if __name__ == "__main__":
    main()
