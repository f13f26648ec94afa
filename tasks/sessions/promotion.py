"""Sessions about the registry: register a run, promote it, and the way back."""

from pathlib import Path

import nox

from tasks.catalogue import session
from tasks.environments import environment
from tasks.project import LATEST, PROJECT, ROOT, SBOM

_INPUTS = ("src", "configs")
_LATEST = ROOT / LATEST
_SBOM = ROOT / SBOM


# A workflow calls each of them where it belongs, in order: they are no jobs of a plan.
@session(timeout_minutes=15, inputs=_INPUTS)
def register(session: nox.Session) -> None:
    """Keep the newest run and its verdict as a version in the registry.

    The registry is the one of MLFLOW_TRACKING_URI, or else registry/mlflow.db. After --: further
    arguments of gates register, such as --run outputs/RUN_ID or --data-verdict FILE.
    """
    usual = []
    if _LATEST.exists():
        usual += ["--run", str(_LATEST.resolve().parent)]
    elif not any(word.partition("=")[0] == "--run" for word in session.posargs):
        session.error("There is no outputs/latest.pt to register; nox -s train, then evaluate")
    if _SBOM.exists():
        usual += ["--sbom", str(_SBOM)]
    # First: what the user says comes after it, and holds.
    _gates(session, "register", *usual, *session.posargs)


@session(timeout_minutes=15, inputs=_INPUTS)
def promote(session: nox.Session) -> None:
    """Move a version to staging or production if it meets every criterion: -- --to staging.

    After --: further arguments of gates promote, such as --version N, --approver NAME, --why TEXT.
    """
    report = ROOT / "artifacts" / "verdicts" / "promotion.json"
    # One of an earlier run must not be taken for this one's.
    report.unlink(missing_ok=True)
    _gates(session, "promote", "--report", str(report), *session.posargs)


@session(timeout_minutes=15, inputs=_INPUTS)
def rollback(session: nox.Session) -> None:
    """Bring production back to the version before, or with -- --to N to that one.

    After --: further arguments of gates rollback, such as --why TEXT.
    """
    _gates(session, "rollback", *session.posargs)


def _gates(session: nox.Session, command: str, *arguments: str) -> None:
    """Run a command of the registry on the project's model, with the credentials of the user."""
    folder: Path = environment.prepare_default_cell()
    words = ["-m", "gates", command, "--name", PROJECT.model, *arguments]
    environment.run(session, folder, "python", *words)
