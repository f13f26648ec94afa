"""Show which version was in production, when and why; verify that the log is intact."""

import argparse
from pathlib import Path

from gates.commands.options import WHERE
from gates.display import show
from gates.errors import ExitCode

HELP = "show which version was in which stage, when and why"
EXIT_CODES = f"Exit codes: 0 the log is intact, 1 it is not, 2 the registry cannot be read. {WHERE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")
    parser.add_argument(
        "--verify", action="store_true", help="fail if an entry was edited or is missing"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="verify too that every entry of an earlier export is still there",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the entries as JSON lines"
    )
    parser.add_argument(
        "--acknowledge", metavar="WHY", help="accept a damaged history, and record why"
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Show, verify, export or acknowledge the history."""
    from gates.files import refuse_to_overwrite, write_text  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry import history, report  # noqa: PLC0415
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415
    from gates.registry.store import check_name  # noqa: PLC0415

    refuse_to_overwrite([options.against], written=[options.export])
    registry = Registry(open_store(), check_name(options.name), say=show)
    if options.acknowledge is not None:
        registry.acknowledge(options.acknowledge)
    snapshot = report.known(registry)
    found = snapshot.history
    if options.export is not None:
        write_text(options.export, history.export(found))
    if not (options.verify or options.against):
        show(*report.listing(registry.model, found))
        return ExitCode.PASSED
    lost = report.compared(found, options.against) if options.against is not None else []
    wrong = [*(each.text for each in (*found.problems, *lost)), *snapshot.unexplained]
    show(*report.verification(registry.model, found, wrong))
    is_intact = not (found.open_problems or lost or snapshot.unexplained)
    return ExitCode.PASSED if is_intact else ExitCode.FAILED
