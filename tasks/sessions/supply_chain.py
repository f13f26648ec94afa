"""Sessions about locked packages, and about the data and code that a model was made from."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import nox

from tasks import git
from tasks.catalogue import of_projects, session
from tasks.environments import environment, uv
from tasks.errors import abort
from tasks.options import Options
from tasks.packaging import commits
from tasks.project import ROOT, WORKSPACE, Cell, Project, needs_torch

# Relative to the root.
_AUDIT = "artifacts/verdicts/audit.json"
_COULD_NOT_JUDGE = 2  # the exit code
_BASE_LOCK = ".nox/base.uv.lock"
_EXPORTED = ".nox/shipped-requirements.txt"


# Every change can need a new audit: vulnerability data changes even if the lock does not.
@session(tiers=["pr", "nightly"], timeout_minutes=5, inputs=["."], parallel=True)
def audit(session: nox.Session) -> None:
    """Check every locked version: vulnerabilities, malware, yanked releases, licences, names.

    Needs the vulnerability database from configs/audit.yaml or AUDIT_DATABASE, and uv's package
    index or the one in AUDIT_INDEX. Skipped if they do not respond, which is an error with CI=true.
    After --: arguments of gates audit; --record-licences alone asks the index for the licence of
    each locked version and writes configs/licences.json.
    """
    tools = environment.prepare(environment.of_supply(environment.default_python()))
    # Not passed as an argument: the URL may contain a password, and the manifest records commands.
    named = {} if "AUDIT_INDEX" in os.environ else {"AUDIT_INDEX": _index()}
    arguments = [*session.posargs]
    if "--base-lock" not in arguments and _write_base_lock():
        arguments += ["--base-lock", _BASE_LOCK]
    report = ROOT / _AUDIT
    report.unlink(missing_ok=True)
    is_judging = "--record-licences" not in arguments
    command = ("python", "-m", "gates", "audit", *arguments, "--report", _AUDIT)
    codes = (0, _COULD_NOT_JUDGE) if is_judging else (0,)
    environment.run(session, tools, *command, outer={**os.environ, **named}, success_codes=codes)
    if is_judging:
        _check_that_it_judged(session, report)


def _check_that_it_judged(session: nox.Session, report: Path) -> None:
    """End the session if `gates audit` found no problem but could not query every service."""
    if not report.exists():
        session.error("gates audit ended without a verdict; its message is above")
    outcome = json.loads(report.read_text(encoding="utf-8"))["outcome"]
    if outcome == "inconclusive":
        reason = "the vulnerability database or the package index did not answer"
        if environment.in_ci():
            abort(f"audit: {reason}; with CI=true, audit must not be skipped")
        session.skip(reason)


@session(timeout_minutes=5, parts=of_projects("nightly", "release"), each="PROJECT")
def sbom(session: nox.Session, project: Project) -> None:
    """Write the SBOM of the packages a project ships and, for an evaluated model, its ML-BOM.

    Writes artifacts/sbom.cdx.json and artifacts/mlbom.cdx.json, or to artifacts/PROJECT/. After --:
    --cell 3.11-2.11 writes only sbom.py3.11-torch2.11.cdx.json, for one cell of the matrix;
    --check compares the existing file with the lock, and writes nothing.
    """
    parser = Options("sbom")
    parser.add_argument("--cell", metavar="PYTHON-TORCH")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(session.posargs)
    tools = environment.prepare(environment.of_supply(environment.default_python()))
    cells = _cells(project)
    chosen = _cell(options.cell, cells) if options.cell else None
    file = f"sbom.{chosen}.cdx.json" if chosen else Path(project.sbom).name
    if chosen:
        made = environment.of_wheel(project.package, chosen)
        (ROOT / _EXPORTED).write_text(environment.exported(made), encoding="utf-8")
    _gates(
        session,
        tools,
        "sbom",
        *("--project", project.model, "--package", project.package),
        *("--output", f"{project.artifacts}/{file}"),
        *(["--cell", options.cell, "--requirements", _EXPORTED] if options.cell else []),
        *(["--check"] if options.check else []),
    )
    if options.check or options.cell:
        return
    if not ((ROOT / project.latest).exists() and (ROOT / project.verdict).exists()):
        evaluate = f'nox -s "evaluate({project.package})"'
        session.log(f"No ML-BOM: there is no evaluated model here; to create one, run {evaluate}")
        return
    run = (ROOT / project.latest).resolve().parent
    wheels = sorted(ROOT.glob(f"dist/{project.package}-*.whl"))[-1:]
    _gates(
        session,
        tools,
        "mlbom",
        *("--run", str(run), "--verdict", project.verdict, "--settings", project.card),
        *("--sbom", str(ROOT / project.sbom), "--output", f"{project.artifacts}/mlbom.cdx.json"),
        *(word for file in wheels for word in ("--wheel", str(file))),
    )


def _cells(project: Project) -> tuple[Cell, ...]:
    if needs_torch(project.package):
        return WORKSPACE.cells
    return tuple(Cell(python) for python in WORKSPACE.pythons)


@session(timeout_minutes=5, inputs=["src/gates"])
def trace(session: nox.Session) -> None:
    """Show what a model was made from, or what data or code was used for: nox -s trace -- DIGEST.

    Searches the runs in outputs/ and, if there is one, the registry. After --: the digest of a
    checkpoint, a commit, data or uv.lock, or its first digits.
    """
    folder = environment.prepare_default_cell()
    names = [word for each in WORKSPACE.projects for word in ("--name", each.model)]
    _gates(session, folder, "trace", *names, *session.posargs)


def _gates(session: nox.Session, folder: Path, command: str, *arguments: str) -> None:
    environment.run(session, folder, "python", "-m", "gates", command, *arguments)


def _index() -> str:
    """Return the URL of the package index that uv uses here, however it is configured."""
    printed = uv.output(
        "pip", "compile", "--quiet", "--no-header", "--emit-index-url", os.devnull, cwd=ROOT
    )
    return next(
        line.partition(" ")[2] for line in printed.splitlines() if line.startswith("--index-url ")
    )


def _write_base_lock() -> bool:
    """Write the lock that the branch started from; return whether it was found."""
    base = commits.base(ROOT, os.environ.get("GITHUB_BASE_REF"))
    text = git.output("show", f"{base}:uv.lock", cwd=ROOT)
    if text is not None:
        (ROOT / _BASE_LOCK).write_text(text, encoding="utf-8")
    return text is not None


def _cell(name: str, cells: Iterable[Cell]) -> Cell:
    by_name = {"-".join(filter(None, (each.python, each.torch))): each for each in cells}
    if name not in by_name:
        abort(f"sbom: --cell {name}: not a cell of the matrix; use one of {', '.join(by_name)}")
    return by_name[name]
