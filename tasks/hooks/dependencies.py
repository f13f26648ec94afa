"""Finds what a package imports and does not declare, or declares and does not import.

python3 -m tasks.hooks.hook python -m tasks.hooks.dependencies

An environment that all packages share would hide it. Each package's pyproject.toml says in
[tool.deptry] which of its requirements have modules of another name.
"""

import subprocess
import sys
from pathlib import Path

from tasks.project import ROOT, members


def main(root: Path = ROOT) -> int:
    """Check every package; print what deptry finds and return 1 if that is anything."""
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
            for line in found or [done.stderr.strip() or "deptry failed without a word"]:
                print(f"{folder.relative_to(root)}/{line}")
    return result


if __name__ == "__main__":
    sys.exit(main())
