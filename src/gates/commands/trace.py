"""Show which data and code a model was built from, and which models used some data or code."""

import argparse
from pathlib import Path

from gates.display import show
from gates.errors import ExitCode

HELP = "find a model's data and code, or the models built from them"
EXIT_CODES = "Exit codes: 0 found, 2 not found or bad input, reported in one line."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "digest", help="of a checkpoint, a commit, data or uv.lock; its first 7 or more hex digits"
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where the runs are (default: %(default)s)",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="MODEL",
        help="also search this model's versions in the registry (GATES_REGISTRY or "
        "MLFLOW_TRACKING_URI, otherwise registry/mlflow.db), if there is one; may be repeated",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Print one line for each model found."""
    from gates.evidence.trace import of_runs, of_versions, trace  # noqa: PLC0415
    from gates.registry.address import open_store, registry_exists  # noqa: PLC0415 - deferred: --help stays fast
    from gates.registry.store import check_name  # noqa: PLC0415

    origins = of_runs(options.outputs)
    for name in filter(lambda _: registry_exists(), options.name):
        origins += of_versions(open_store(), check_name(name))
    show(*trace(options.digest, origins))
    return ExitCode.PASSED
