"""Show which version is where, since when, and who put it there."""

import argparse

from gates.display import show
from gates.errors import ExitCode

HELP = "which version is where, and since when"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")


def run(options: argparse.Namespace) -> ExitCode:
    """Show it; a registry that contradicts its history is a failure."""
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415 - after the options: --help is quick
    from gates.registry.report import status  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415

    registry = Registry(open_store(), check_name(options.name), say=show)
    lines, is_right = status(registry)
    show(*lines)
    return ExitCode.PASSED if is_right else ExitCode.FAILED
