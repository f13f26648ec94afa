"""Runs a locked tool for a pre-commit hook.

    python3 -m tasks.hooks.hook ruff check FILE …

The hook and `nox -s lint` thus run the same binary, regardless of PATH.
"""

import os
import sys
from collections.abc import Sequence

from tasks.environments import environment


def main(command: Sequence[str]) -> None:
    """Replace this process with `command`, run in the locked environment for tools."""
    folder = environment.prepare(environment.of_tools(environment.default_python()))
    program = folder / "bin" / command[0]
    os.execve(program, [str(program), *command[1:]], environment.isolated(folder))  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
