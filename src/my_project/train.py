"""Train a model: python -m my_project.train --config configs/ci-tiny.yaml."""

import sys
from collections.abc import Sequence

from training import command_line

from my_project.config import SETTINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return command_line.train(SETTINGS, arguments)


if __name__ == "__main__":
    sys.exit(main())
