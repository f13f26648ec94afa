"""Asks git about the repository."""

import subprocess
from pathlib import Path


def output(*arguments: str, cwd: Path) -> str | None:
    """Return what git prints; None if it fails, as where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - the one on PATH, as for anybody
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
