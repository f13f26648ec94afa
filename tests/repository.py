"""This repository as tests see it: its files, and git in it or in a copy."""

import subprocess
from pathlib import Path

from tasks.project import ROOT


def git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run git as somebody, whether or not the machine knows who that is."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    identity += ["-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments],  # noqa: S607 - the one on PATH, as for anybody
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def files() -> list[str]:
    """The files that git tracks, and those it would if they were added."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard").stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]
