"""Train a model: python -m my_project.train --config configs/ci-tiny.yaml."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gates.errors import CommandParser, ExitCode, run_command
from my_project.config import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _train(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m my_project.train",
        description="Train a model and leave a checkpoint.",
        epilog="Exit codes: 0 trained, 1 training failed (a loss that is not finite), "
        "2 bad input, told in one line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="such as configs/ci-tiny.yaml"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one key of the configuration, as in train.epochs=3; may be repeated",
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where the run's folder is made (default: %(default)s)",
    )
    parser.add_argument(
        "--run-id", metavar="ID", help="the name of the run's folder (default: date and time)"
    )
    return parser


def _train(options: argparse.Namespace) -> ExitCode:
    config = load(options.config, options.overrides)
    # Imports torch: after the configuration, so that a typo is told at once.
    from my_project import runs  # noqa: PLC0415

    run = runs.start(options.outputs, options.run_id)
    runs.train(config, run, say=print)
    return ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(main())
