"""Register a run's outputs as a version in the registry."""

import argparse
from pathlib import Path

from gates.commands.options import WHERE
from gates.display import show
from gates.errors import ExitCode

HELP = "register a run as a version in the registry"
EXIT_CODES = f"Exit codes: 0 registered, 1 refused, 2 bad input, reported in one line. {WHERE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--run", type=Path, required=True, metavar="FOLDER", help="such as outputs/RUN_ID"
    )
    parser.add_argument("--name", required=True, metavar="MODEL", help="the model's name")
    parser.add_argument(
        "--verdict",
        type=Path,
        default=Path("artifacts/verdicts/evaluation.json"),
        metavar="FILE",
        help="the evaluation gate's verdict on this run (default: %(default)s)",
    )
    parser.add_argument(
        "--data-verdict",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a data gate's verdict on the run's training data; may be repeated",
    )
    parser.add_argument(
        "--sbom", type=Path, metavar="FILE", help="the run's software, as CycloneDX JSON"
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Register the run, and print the version."""
    from gates.registry.address import open_store  # noqa: PLC0415
    from gates.registry.pipeline import Registry  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry.store import check_name  # noqa: PLC0415
    from gates.registry.submission import read_submission  # noqa: PLC0415

    name = check_name(options.name)
    submission = read_submission(
        options.run, options.verdict, data_verdicts=options.data_verdict, sbom=options.sbom
    )
    registry = Registry(open_store(make=True), name, say=show)
    version, is_new = registry.register(submission)
    what = "registered" if is_new else "is already registered with this checkpoint; nothing to do"
    show(f"{name}: version {version.number} ({version.fact('model_version')}) {what}")
    return ExitCode.PASSED
