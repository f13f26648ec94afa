"""Checks that .github/CODEOWNERS names an owner for every path that decides about changes."""

from collections.abc import Sequence
from pathlib import Path

FILE = Path(".github", "CODEOWNERS")

# A pull request that changes one of these paths could approve itself.
JUDGES = (
    "/.github/",
    "/.ci/",
    "/configs/audit.yaml",
    "/configs/data/",
    "/configs/gates.yaml",
    "/noxfile.py",
    "/pyproject.toml",
    "/src/gates/",
    "/tasks/",
    "/uv.lock",
)


def unowned(root: Path) -> list[str]:
    """Return a line for each path of `JUDGES` that has no owner."""
    try:
        text = (root / FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{FILE}: cannot be read ({error}); write a line for each of {', '.join(JUDGES)}"]
    entries = [line.partition("#")[0].split() for line in text.splitlines()]
    return [line for path in JUDGES if (line := _problem(path, entries))]


def _problem(path: str, entries: Sequence[Sequence[str]]) -> str | None:
    lines = [(number, entry) for number, entry in enumerate(entries, start=1) if entry]
    named = [place for place, (_, entry) in enumerate(lines) if entry[0] == path]
    if not named:
        return f"{FILE}:1: {path} is missing; add it with its owner: {path} @OWNER/TEAM"
    number, entry = lines[named[-1]]
    if len(entry) == 1:
        return f"{FILE}:{number}: {path} has no owner; add one after the path: {path} @OWNER/TEAM"
    # GitHub uses the last pattern that matches a file.
    for later, (pattern, *_) in lines[named[-1] + 1 :]:
        if not pattern.startswith("/") or pattern.startswith(path) or "*" in pattern:
            return (
                f"{FILE}:{later}: {pattern} may override the owner of files in {path}; "
                "remove this line"
            )
    return None
