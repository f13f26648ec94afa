"""The command: python -m toy.eval."""

import sys
from collections.abc import Sequence

from training import command_line

from toy.config import SETTINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return command_line.evaluate(SETTINGS, arguments)


if __name__ == "__main__":
    sys.exit(main())
