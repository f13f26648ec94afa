"""Options that several commands share."""

import argparse
from collections.abc import Mapping
from pathlib import Path


def add_files(parser: argparse.ArgumentParser, defaults: Mapping[str, str]) -> None:
    """Declare options that name files, each with its default."""
    for option, default in defaults.items():
        shown = "default: %(default)s"
        parser.add_argument(option, type=Path, default=Path(default), metavar="FILE", help=shown)
