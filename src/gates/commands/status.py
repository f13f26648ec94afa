"""Show which version is in which stage, since when, and who put it there."""

import argparse

from gates.commands.options import WHERE
from gates.display import show
from gates.errors import ExitCode

HELP = "show which version is in which stage, and since when"
EXIT_CODES = (
    "Exit codes: 0 shown, 1 an alias or the log needs attention, 2 the registry cannot be read. "
    f"{WHERE}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")


def run(options: argparse.Namespace) -> ExitCode:
    """Show the status; fail if the registry contradicts its history."""
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry.report import status  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415

    registry = Registry(open_store(), check_name(options.name), say=show)
    lines, is_consistent = status(registry)
    show(*lines)
    return ExitCode.PASSED if is_consistent else ExitCode.FAILED
