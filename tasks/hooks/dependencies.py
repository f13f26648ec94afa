"""Finds requirements that a package imports but does not declare, or declares but does not import.

python3 -m tasks.hooks.hook python -m tasks.hooks.dependencies

Tests would not notice, since all packages share an environment. In each package's pyproject.toml,
[tool.deptry] lists the requirements whose modules have another name.
"""

import subprocess
import sys
from pathlib import Path

from tasks.project import ROOT, members


def main(root: Path = ROOT) -> int:
    """Check every package; print deptry's findings, and return 1 if there are any."""
    deptry = Path(sys.executable).with_name("deptry")
    result = 0
    for folder in members(root):
        done = subprocess.run(
            [str(deptry), ".", "--no-ansi"],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        if done.returncode:
            result = 1
            found = [line for line in done.stderr.splitlines() if " DEP" in line]
            for line in found or [done.stderr.strip() or "deptry failed without an error message"]:
                print(f"{folder.relative_to(root)}/{line}")
    return result


if __name__ == "__main__":
    sys.exit(main())
