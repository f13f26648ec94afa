"""Sessions about the registry: register a run, promote it, and the way back."""

import nox

from tasks.catalogue import of_projects, session
from tasks.environments import environment
from tasks.options import Options
from tasks.project import ROOT, Project


# A workflow calls each of them where it belongs, in order: they are no jobs of a plan.
@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def register(session: nox.Session, project: Project) -> None:
    """Keep the newest run of a project and its verdict as a version in the registry.

    The registry is the one of MLFLOW_TRACKING_URI, or else registry/mlflow.db. After --: --run-id
    ID names another run; further arguments of gates register, such as --data-verdict FILE.
    """
    parser = Options("register")
    parser.add_argument("--run-id", metavar="ID")
    options, others = parser.parse_known_args(session.posargs)
    usual = []
    if options.run_id:
        usual += ["--run", str(ROOT / project.outputs / options.run_id)]
    elif (ROOT / project.latest).exists():
        usual += ["--run", str((ROOT / project.latest).resolve().parent)]
    elif not any(word.partition("=")[0] == "--run" for word in others):
        again = f'nox -s "train({project.package})" "evaluate({project.package})"'
        session.error(f"There is no {project.latest} to register; {again}")
    if (ROOT / project.verdict).exists():
        usual += ["--verdict", str(ROOT / project.verdict)]
    if (ROOT / project.sbom).exists():
        usual += ["--sbom", str(ROOT / project.sbom)]
    # First: what the user says comes after it, and holds.
    _gates(session, "register", project, *usual, *others)


@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def promote(session: nox.Session, project: Project) -> None:
    """Move a version to staging or production if it meets every criterion: -- --to staging.

    After --: further arguments of gates promote, such as --version N, --approver NAME, --why TEXT.
    """
    report = ROOT / project.artifacts / "verdicts" / "promotion.json"
    # One of an earlier run must not be taken for this one's.
    report.unlink(missing_ok=True)
    policy = ("--policy", str(ROOT / project.policy))
    _gates(session, "promote", project, "--report", str(report), *policy, *session.posargs)


@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def rollback(session: nox.Session, project: Project) -> None:
    """Bring production back to the version before, or with -- --to N to that one.

    After --: further arguments of gates rollback, such as --why TEXT.
    """
    policy = ("--policy", str(ROOT / project.policy))
    _gates(session, "rollback", project, *policy, *session.posargs)


def _gates(session: nox.Session, command: str, project: Project, *arguments: str) -> None:
    """Run a command of the registry on the project's model, with the credentials of the user."""
    folder = environment.prepare_default_cell()
    words = ["-m", "gates", command, "--name", project.model, *arguments]
    environment.run(session, folder, "python", *words)
