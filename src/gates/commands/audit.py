"""Judge every version in the lock: vulnerabilities, malware, yanked releases, licences, names."""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from gates.commands.options import JUDGED, add_files
from gates.display import show
from gates.errors import ExitCode, GateInputError

HELP = "check that every locked package may be used"
EXIT_CODES = JUDGED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_files(
        parser,
        {
            "--lock": "uv.lock",
            "--settings": "configs/audit.yaml",
            "--licences": "configs/licences.json",
            "--last-answer": ".nox/audit.json",
        },
    )
    parser.add_argument(
        "--database",
        default=os.environ.get("AUDIT_DATABASE"),
        metavar="URL",
        help="an OSV service (default: AUDIT_DATABASE, else the one in the settings)",
    )
    parser.add_argument(
        "--index",
        default=os.environ.get("AUDIT_INDEX"),
        metavar="URL",
        help="the package index to query for yanked releases (default: AUDIT_INDEX, which "
        "`nox -s audit` sets to uv's index)",
    )
    parser.add_argument(
        "--base-lock",
        type=Path,
        metavar="FILE",
        help="the lock before the change, to compare new names with the ones they replace",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the verdict as JSON")
    parser.add_argument(
        "--record-licences",
        action="store_true",
        help="write the licence of each locked version, as found on the index, and exit",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Judge the lock, or record its licences."""
    from gates.files import refuse_to_overwrite  # noqa: PLC0415 - deferred: --help stays fast

    read = [options.lock, options.settings, options.base_lock]
    if options.record_licences:
        refuse_to_overwrite(read, written=[options.licences])
        return _record(options)
    read.append(options.licences)
    refuse_to_overwrite(read, written=[options.report, options.last_answer])
    from gates.services import UnreachableError  # noqa: PLC0415
    from gates.supply.audit import Sources, audit  # noqa: PLC0415 - deferred: --help stays fast
    from gates.verdicts.verdict import Outcome, publish  # noqa: PLC0415

    sources = Sources(
        lock=options.lock,
        settings=options.settings,
        licences=options.licences,
        last_answer=options.last_answer,
        database=options.database,
        index=options.index,
        base_lock=options.base_lock,
    )
    verdict = audit(sources, now=datetime.now(UTC))
    code = publish(verdict, report=options.report)
    if verdict.outcome is Outcome.INCONCLUSIVE:
        (reason,) = verdict.notes["not shown: vulnerabilities"].splitlines()
        msg = f"audit: {reason}. Connect this machine, or name a mirror in AUDIT_DATABASE"
        raise UnreachableError(msg)
    return code


def _record(options: argparse.Namespace) -> ExitCode:
    from gates.supply.audit_settings import load_audit_settings  # noqa: PLC0415
    from gates.supply.licences import write_record  # noqa: PLC0415
    from gates.supply.locked import read_lock  # noqa: PLC0415

    if not options.index:
        msg = "audit: --record-licences needs a package index; set --index or AUDIT_INDEX"
        raise GateInputError(msg)
    missing = write_record(read_lock(options.lock), options.index, options.licences)
    exceptions = load_audit_settings(options.settings).read_by_people
    unreviewed = [key for key in missing if key.partition("==")[0] not in exceptions]
    show(f"licences: {options.licences}")
    for key in unreviewed:
        show(f"  {key}: its metadata has none; read its files, then add it to {options.settings}")
    return ExitCode.FAILED if unreviewed else ExitCode.PASSED
