"""Checks that read the source: style, spelling, import contracts, the lock, types."""

import nox

from tasks import environment
from tasks.catalogue import session
from tasks.project import PROJECT

SOURCE = ("noxfile.py", "benchmarks", "src", "tasks", "tests")


@session(tiers=["pr"], timeout_minutes=5, inputs=["."], parallel=True)
def lint(session: nox.Session) -> None:
    """Check style, format, spelling, import contracts, the lock, and that git holds no model.

    Runs the hooks of .pre-commit-config.yaml over every tracked file, so a commit that passes
    its hooks passes here. Ruff mends what it safely can. After --: the id of one hook.
    """
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    untracked = session.run(
        "git",
        "ls-files",
        "--others",
        "--exclude-standard",
        external=True,
        silent=True,
        log=False,
    )
    if untracked:
        session.warn(f"Not checked, as git does not track them: {' '.join(untracked.split())}")
    arguments = ["run", "--all-files", "--show-diff-on-failure", *session.posargs]
    # SKIP is how one commit goes past a hook; a check that runs nothing must not be green.
    environment.run(session, tools, "pre-commit", *arguments, SKIP="")


@session(tiers=["pr"], timeout_minutes=10, inputs=["src", "tests", "benchmarks"], parallel=True)
def types(session: nox.Session) -> None:
    """Check types: mypy --strict over src, tasks and tests.

    After --: arguments of mypy, in place of the folders.
    """
    folder = environment.prepare(environment.of_cell(environment.default_cell()))
    environment.run(session, folder, "mypy", *(session.posargs or SOURCE))
    if not session.posargs:
        # The sessions run on whatever Python has Nox; the packages run on each one in `matrix`.
        oldest = f"--python-version={PROJECT.pythons[0]}"
        environment.run(session, folder, "mypy", oldest, "noxfile.py", "tasks")
