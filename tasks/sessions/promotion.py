"""Sessions about the registry: register a run, promote it, and roll back."""

import nox

from tasks.catalogue import of_projects, session
from tasks.environments import environment
from tasks.options import Options
from tasks.project import ROOT, Project


# These sessions have no tier: a workflow must run them itself, in order, and not from the plan.
@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def register(session: nox.Session, project: Project) -> None:
    """Register a project's newest run and its verdict as a model version.

    The registry is at MLFLOW_TRACKING_URI, or else in registry/mlflow.db. After --: --run-id ID
    selects another run; further arguments of gates register, such as --data-verdict FILE.
    """
    parser = Options("register")
    parser.add_argument("--run-id", metavar="ID")
    options, others = parser.parse_known_args(session.posargs)
    defaults = []
    if options.run_id:
        defaults += ["--run", str(ROOT / project.outputs / options.run_id)]
    elif (ROOT / project.latest).exists():
        defaults += ["--run", str((ROOT / project.latest).resolve().parent)]
    elif not any(word.partition("=")[0] == "--run" for word in others):
        fix = f'nox -s "train({project.package})" "evaluate({project.package})"'
        session.error(f"There is no {project.latest} to register; run: {fix}")
    if (ROOT / project.verdict).exists():
        defaults += ["--verdict", str(ROOT / project.verdict)]
    if (ROOT / project.sbom).exists():
        defaults += ["--sbom", str(ROOT / project.sbom)]
    # The user's arguments come last, so that they override the defaults.
    _gates(session, "register", project, *defaults, *others)


@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def promote(session: nox.Session, project: Project) -> None:
    """Promote a version to staging or production if it meets every criterion: -- --to staging.

    After --: further arguments of gates promote, such as --version N, --approver NAME, --why TEXT.
    """
    report = ROOT / project.artifacts / "verdicts" / "promotion.json"
    # A report of an earlier run must not be mistaken for this run's.
    report.unlink(missing_ok=True)
    policy = ("--policy", str(ROOT / project.policy))
    _gates(session, "promote", project, "--report", str(report), *policy, *session.posargs)


@session(timeout_minutes=15, parts=of_projects(), each="PROJECT")
def rollback(session: nox.Session, project: Project) -> None:
    """Roll production back to the previous version, or to version N with -- --to N.

    After --: further arguments of gates rollback, such as --why TEXT.
    """
    policy = ("--policy", str(ROOT / project.policy))
    _gates(session, "rollback", project, *policy, *session.posargs)


def _gates(session: nox.Session, command: str, project: Project, *arguments: str) -> None:
    """Run a registry command on the project's model, with the user's credentials."""
    folder = environment.prepare_default_cell()
    words = ["-m", "gates", command, "--name", project.model, *arguments]
    environment.run(session, folder, "python", *words)
