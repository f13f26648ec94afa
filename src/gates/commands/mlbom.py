"""Write the bill of materials of a model: code, data and model in one document."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from gates.commands.options import add_files
from gates.display import show
from gates.errors import ExitCode

HELP = "list a model's code, data and files as CycloneDX"
EXIT_CODES = "Exit codes: 0 written, 2 bad input, reported in one line."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--run", type=Path, required=True, metavar="FOLDER", help="such as outputs/RUN_ID"
    )
    add_files(
        parser,
        {
            "--verdict": "artifacts/verdicts/evaluation.json",
            "--settings": "configs/model_card.yaml",
            "--output": "artifacts/mlbom.cdx.json",
        },
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="FOLDER",
        help="where to search for the training data's manifest (default: %(default)s)",
    )
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="list it with its digest")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="list it with its digest")


def run(options: argparse.Namespace) -> ExitCode:
    """Write the document."""
    from gates.files import refuse_to_overwrite, write_text  # noqa: PLC0415
    from gates.report.model_card import load_settings  # noqa: PLC0415
    from gates.supply import sbom  # noqa: PLC0415 - deferred: --help stays fast
    from gates.supply.mlbom import Evidence, mlbom  # noqa: PLC0415
    from gates.verdicts.verdict import read_verdict  # noqa: PLC0415

    read = [options.verdict, options.settings, options.sbom, options.wheel, *options.run.glob("*")]
    refuse_to_overwrite([*read, *options.data.glob("**/*.manifest.json")], written=[options.output])
    links = {"sbom": options.sbom, "wheel": options.wheel}
    evidence = Evidence(
        run=options.run,
        verdict=read_verdict(options.verdict),
        data_folder=options.data,
        links={kind: file for kind, file in links.items() if file is not None},
    )
    time = sbom.declared_time(datetime.now(UTC))
    document = mlbom(evidence, load_settings(options.settings), time=time)
    write_text(options.output, sbom.as_text(document))
    show(f"mlbom: {options.output}")
    return ExitCode.PASSED
