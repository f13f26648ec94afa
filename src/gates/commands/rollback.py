"""Return production to the previous version, or to another earlier one."""

import argparse
from pathlib import Path

from gates.commands.options import WHERE
from gates.display import show
from gates.errors import ExitCode

HELP = "return production to an earlier version"
EXIT_CODES = f"Exit codes: 0 rolled back, 1 refused, 2 could not try the version. {WHERE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")
    parser.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="a version that was in production (default: the one before the current)",
    )
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    parser.add_argument(
        "--policy",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="FILE",
        help="how the version is checked first (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Roll back, and print the version that is in production now."""
    from gates.evaluation.policy import load_policy  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415

    name = check_name(options.name)
    policy = load_policy(options.policy)
    registry = Registry(open_store(), name, say=show)
    version = registry.rollback(policy, to=options.to, why=options.why)
    show(f"{name}: version {version.number} ({version.fact('model_version')}) is in production")
    return ExitCode.PASSED
