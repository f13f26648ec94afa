"""Tell which data and code made a model, and which models used some data or code."""

import argparse
from pathlib import Path

from gates.display import show
from gates.errors import ExitCode

HELP = "from a model to its data and code, and back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("digest", help="of a checkpoint, a commit, data or uv.lock; 7 digits do")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="FOLDER")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="MODEL",
        help="search this model's versions too, in the registry that a variable names or that is "
        "in this folder; nothing is registered where there is neither; may be repeated",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Print a line for each model."""
    from gates.evidence.trace import of_runs, of_versions, trace  # noqa: PLC0415
    from gates.registry.address import is_there, open_store  # noqa: PLC0415 - --help is quick
    from gates.registry.store import check_name  # noqa: PLC0415

    origins = of_runs(options.outputs)
    for name in filter(lambda _: is_there(), options.name):
        origins += of_versions(open_store(), check_name(name))
    show(*trace(options.digest, origins))
    return ExitCode.PASSED
