"""Score a checkpoint on held-out data and judge it: python -m doctor_visits.eval --help."""

import sys
from collections.abc import Sequence

from training import command_line

from doctor_visits.config import SETTINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return command_line.evaluate(SETTINGS, arguments)


if __name__ == "__main__":
    sys.exit(main())
