"""Bring production back to the version before, or to another that was there."""

import argparse
from pathlib import Path

from gates.display import show
from gates.errors import ExitCode

HELP = "bring production back to an earlier version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")
    parser.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="one that was in production (default: the one before the current)",
    )
    parser.add_argument("--why", default="", metavar="TEXT", help="for the history")
    parser.add_argument(
        "--policy",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="FILE",
        help="which says how the version is tried first (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Roll back, and tell what is in production now."""
    from gates.evaluation.policy import load_policy  # noqa: PLC0415 - after the options: --help is quick
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415

    name = check_name(options.name)
    policy = load_policy(options.policy)
    registry = Registry(open_store(), name, say=show)
    version = registry.rollback(policy, to=options.to, why=options.why)
    show(f"{name}: version {version.number} ({version.fact('model_version')}) is in production")
    return ExitCode.PASSED
