"""Write the bill of materials of the lock, or compare one with the lock."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from gates.commands.options import add_files
from gates.display import show
from gates.errors import ExitCode

HELP = "list the locked packages as CycloneDX"
EXIT_CODES = "Exit codes: 0 written, or equal with --check; 1 different with --check; 2 bad input."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_files(
        parser,
        {
            "--lock": "uv.lock",
            "--licences": "configs/licences.json",
            "--settings": "configs/audit.yaml",
            "--output": "artifacts/sbom.cdx.json",
        },
    )
    parser.add_argument(
        "--project", required=True, metavar="NAME", help="the name to give the SBOM's subject"
    )
    parser.add_argument(
        "--package",
        metavar="NAME",
        help="list only the dependencies of this package in src/ (default: all)",
    )
    parser.add_argument(
        "--requirements",
        type=Path,
        metavar="FILE",
        help="a uv export: list only the packages in it (default: all)",
    )
    parser.add_argument(
        "--cell",
        metavar="PYTHON-TORCH",
        help="list only the requirements of this cell (default: every cell)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare the file at --output with the lock instead of writing it",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Write the document, or compare it with the lock."""
    from gates.files import refuse_to_overwrite, sha256, write_text  # noqa: PLC0415
    from gates.supply import sbom  # noqa: PLC0415 - deferred: --help stays fast
    from gates.supply.audit_settings import load_audit_settings  # noqa: PLC0415
    from gates.supply.licences import read_record, with_exceptions  # noqa: PLC0415
    from gates.supply.locked import read_lock, read_shipped, select  # noqa: PLC0415

    read = [options.lock, options.licences, options.settings, options.requirements]
    refuse_to_overwrite(read, written=[options.output])
    packages = read_lock(options.lock)
    if options.package:
        packages = read_shipped(options.lock, options.package)
    if options.requirements:
        packages = select(packages, options.requirements, cell=options.cell)
    found = sbom.read_document(options.output) if options.check else None
    exceptions = load_audit_settings(options.settings).read_by_people
    document = sbom.sbom(
        packages,
        with_exceptions(packages, read_record(options.licences), exceptions),
        project=options.project,
        properties={"lock": sha256(options.lock), "cell": options.cell or "all"},
        time=sbom.time_of(found) if found else sbom.declared_time(datetime.now(UTC)),
    )
    if found is not None:
        lines = sbom.differences(found, document)
        show(*(f"{options.output}: {line}" for line in lines or ["matches the lock"]))
        return ExitCode.FAILED if lines else ExitCode.PASSED
    write_text(options.output, sbom.as_text(document))
    show(f"sbom: {options.output}: {len(packages)} packages")
    return ExitCode.PASSED
