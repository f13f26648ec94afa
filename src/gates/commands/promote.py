"""Move a version to staging or production if it meets every criterion of the policy."""

import argparse
from pathlib import Path

from gates.commands.options import JUDGED, WHERE
from gates.display import show
from gates.errors import ExitCode

HELP = "move a version to staging or production if it meets every criterion"
EXIT_CODES = f"{JUDGED} {WHERE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")
    parser.add_argument("--to", required=True, choices=["staging", "production"], help="the stage")
    parser.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="the version (default: the newest; for production, the one in staging)",
    )
    parser.add_argument(
        "--verdict",
        type=Path,
        metavar="FILE",
        help="a new verdict of the evaluation gate, for example against the current production "
        "model (default: the registered one)",
    )
    parser.add_argument(
        "--approver",
        metavar="NAME",
        help="the login of the person who approves, if the policy asks for one",
    )
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    parser.add_argument(
        "--policy",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="FILE",
        help="the criteria (default: %(default)s)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the verdict here as JSON"
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Promote the version, and show the criteria."""
    from gates.evaluation.policy import load_policy  # noqa: PLC0415
    from gates.files import check_writable, refuse_to_overwrite  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Promotion, Registry  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415
    from gates.verdicts.verdict import publish  # noqa: PLC0415

    name = check_name(options.name)
    refuse_to_overwrite([options.verdict, options.policy], written=[options.report])
    policy = load_policy(options.policy)
    refuse_to_overwrite([policy.declared_data], written=[options.report])
    check_writable(options.report)  # before the stage is changed
    promotion = Promotion(
        stage=options.to,
        number=options.version,
        verdict=options.verdict,
        approver=options.approver,
        why=options.why,
    )
    verdict = Registry(open_store(), name, say=show).promote(promotion, policy)
    return publish(verdict, report=options.report)
