"""Write a model card from a run's provenance and the verdict on it."""

import argparse
from pathlib import Path

from gates.display import show
from gates.errors import ExitCode

HELP = "write a model card"
EXIT_CODES = "Exit codes: 0 written, 2 bad input, reported in one line."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the run, such as outputs/RUN_ID, or its checkpoint",
    )
    parser.add_argument(
        "--verdict",
        type=Path,
        required=True,
        metavar="FILE",
        help="the evaluation gate's verdict on the run",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        default=Path("configs/model_card.yaml"),
        metavar="FILE",
        help="the parts that people write (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write the card (default: model_card.md in the run's folder)",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Write the card."""
    from gates.evidence import provenance  # noqa: PLC0415 - deferred: --help stays fast
    from gates.files import refuse_to_overwrite, write_text  # noqa: PLC0415
    from gates.report.model_card import load_settings, model_card  # noqa: PLC0415
    from gates.verdicts.verdict import read_verdict  # noqa: PLC0415

    folder = options.run.resolve().parent if options.run.is_file() else options.run
    file = options.output or folder / "model_card.md"
    read = [options.settings, options.verdict, options.run, *folder.glob("*")]
    refuse_to_overwrite({*read} - {folder / "model_card.md"}, written=[file])
    settings = load_settings(options.settings)
    statement = provenance.read(folder / "provenance.json")
    card = model_card(settings, statement, read_verdict(options.verdict))
    write_text(file, card)
    show(f"model card: {file}")
    return ExitCode.PASSED
