"""The command line of the gates: python -m gates --help."""

import argparse
import sys
from collections.abc import Sequence

from gates.commands import (
    audit,
    card,
    evaluate,
    history,
    mlbom,
    plan_size,
    promote,
    register,
    rollback,
    sbom,
    status,
    trace,
)
from gates.commands.options import JUDGED
from gates.errors import CommandParser, run_command

_COMMANDS = {
    "evaluate": evaluate,
    "plan-size": plan_size,
    "register": register,
    "promote": promote,
    "rollback": rollback,
    "status": status,
    "history": history,
    "card": card,
    "audit": audit,
    "sbom": sbom,
    "mlbom": mlbom,
    "trace": trace,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _COMMANDS[options.command].run(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m gates",
        description="Decide from files whether a model may be promoted.",
        epilog=JUDGED,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        description = (command.__doc__ or "").splitlines()[0]
        command.add_arguments(
            commands.add_parser(
                name,
                help=command.HELP,
                description=description,
                epilog=command.EXIT_CODES,
                allow_abbrev=False,
            )
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
