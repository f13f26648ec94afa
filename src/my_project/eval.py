"""Score a checkpoint on held-out data and judge it: python -m my_project.eval --help."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gates.errors import CommandParser, ExitCode, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.baseline is not None and options.fail_if_worse_than is None:
        parser.error("--baseline needs --fail-if-worse-than, as in --fail-if-worse-than 0.02")
    return run_command(lambda: _evaluate(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m my_project.eval",
        description="Score a checkpoint on held-out data and judge it against a baseline.",
        epilog="Exit codes: 0 not worse, 1 worse by more than the margin, "
        "2 could not judge, told in one line, 3 too little evidence.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="such as outputs/latest.pt"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument(
        "--baseline",
        metavar="URI",
        help="checkpoint or predictions.parquet of the model in production: a path, "
        "or an address that fsspec opens",
    )
    against.add_argument(
        "--no-baseline", metavar="WHY", help="judge a first release, and say why it is one"
    )
    parser.add_argument(
        "--fail-if-worse-than",
        type=float,
        metavar="MARGIN",
        help="accuracy that may be lost, a fraction: 0.02 is two percentage points",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="where the data is (default: the checkpoint's own configuration)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the verdict here, as JSON"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the predictions here (default: predictions.parquet beside the checkpoint)",
    )
    return parser


def _evaluate(options: argparse.Namespace) -> ExitCode:
    # Imports torch: after the options, so that --help and a typo answer at once.
    from my_project import evaluation  # noqa: PLC0415

    checkpoint = options.checkpoint
    examples = evaluation.held_out_examples(checkpoint, options.config)
    written_to = options.predictions or checkpoint.resolve().with_name("predictions.parquet")
    if options.baseline is None:
        verdict = evaluation.accept_without_baseline(
            checkpoint, why=options.no_baseline, examples=examples, written_to=written_to
        )
    else:
        verdict = evaluation.compare(
            checkpoint,
            options.baseline,
            margin=options.fail_if_worse_than,
            examples=examples,
            written_to=written_to,
        )
    if options.report is not None:
        verdict.write(options.report)
    print(verdict.to_text())
    return verdict.outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
