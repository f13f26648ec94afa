"""Options that several commands share."""

import argparse
from collections.abc import Mapping
from pathlib import Path

# The exit codes of a command that gives a verdict, and where a command finds the registry.
JUDGED = (
    "Exit codes: 0 passed, 1 failed, 2 could not judge (reported in one line), "
    "3 too little evidence."
)
WHERE = "The registry is GATES_REGISTRY or MLFLOW_TRACKING_URI, otherwise registry/mlflow.db."


def add_files(parser: argparse.ArgumentParser, defaults: Mapping[str, str]) -> None:
    """Declare options that name files, each with its default."""
    for option, default in defaults.items():
        shown = "default: %(default)s"
        parser.add_argument(option, type=Path, default=Path(default), metavar="FILE", help=shown)
