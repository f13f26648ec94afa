"""Judge every version in the lock: vulnerabilities, malware, yanked releases, licences, names."""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from gates.commands.options import add_files
from gates.display import show
from gates.errors import ExitCode, GateInputError

HELP = "may what is locked be used?"


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
        help="an OSV service (default: AUDIT_DATABASE, else that of the settings)",
    )
    parser.add_argument(
        "--index",
        default=os.environ.get("AUDIT_INDEX"),
        metavar="URL",
        help="the package index that is asked for yanked releases (default: AUDIT_INDEX)",
    )
    parser.add_argument(
        "--base-lock",
        type=Path,
        metavar="FILE",
        help="the lock before the change: new names are compared with it as well",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the verdict, as JSON")
    parser.add_argument(
        "--record-licences",
        action="store_true",
        help="write the licences that the index tells of each locked version, and end",
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Judge, or record."""
    from gates.files import refuse_to_overwrite  # noqa: PLC0415 - after the options: --help is quick

    read = [options.lock, options.settings, options.base_lock]
    if options.record_licences:
        refuse_to_overwrite(read, written=[options.licences])
        return _record(options)
    read.append(options.licences)
    refuse_to_overwrite(read, written=[options.report, options.last_answer])
    from gates.services import UnreachableError  # noqa: PLC0415
    from gates.supply.audit import Sources, audit  # noqa: PLC0415 - after the options: --help is quick
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
        msg = "audit: --record-licences asks a package index; name one with --index or AUDIT_INDEX"
        raise GateInputError(msg)
    untold = write_record(read_lock(options.lock), options.index, options.licences)
    read = load_audit_settings(options.settings).read_by_people
    unread = [key for key in untold if key.partition("==")[0] not in read]
    show(f"licences: {options.licences}")
    for key in unread:
        show(f"  {key}: its metadata names none; read its files, then {options.settings}")
    return ExitCode.FAILED if unread else ExitCode.PASSED
