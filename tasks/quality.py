"""Checks that read the source: style, spelling, import contracts, the lock, types."""

import nox

from tasks import environment, git, uv
from tasks.catalogue import session
from tasks.project import PROJECT, ROOT

SOURCE = ("noxfile.py", "benchmarks", "src", "tasks", "tests")


@session(tiers=["pr"], timeout_minutes=5, inputs=["."], parallel=True)
def lint(session: nox.Session) -> None:
    """Check style, format, spelling, import contracts, the lock, and that git holds no model.

    Runs the hooks of .pre-commit-config.yaml over every tracked file, so a commit that passes
    its hooks passes here. Ruff mends what it safely can. After --: the id of one hook.
    """
    reason = git.problem(ROOT)
    if reason:
        uv.stop(f"lint: checks the files that git tracks, and git cannot tell them: {reason}")
    listed = git.output("ls-files", "--others", "--exclude-standard", cwd=ROOT)
    if listed:
        session.warn(f"Not checked, as git does not track them: {' '.join(listed.split())}")
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    arguments = ["run", "--all-files", *session.posargs]
    # What hooks have mended, and not what was changed before: a lock has thousands of lines.
    if git.output("diff", "--quiet", cwd=ROOT) is not None:
        arguments.append("--show-diff-on-failure")
    # SKIP is how one commit goes past a hook; a check that runs nothing must not be green.
    environment.run(session, tools, "pre-commit", *arguments, SKIP="")


@session(tiers=["pr"], timeout_minutes=10, inputs=SOURCE, parallel=True, in_image=True)
def types(session: nox.Session) -> None:
    """Check types: mypy --strict over src, tasks and tests.

    After --: arguments of mypy, in place of the folders.
    """
    folder = environment.prepare_default_cell()
    environment.run(session, folder, "mypy", *(session.posargs or SOURCE))
    if not session.posargs:
        # The sessions run on whatever Python has Nox; the packages run on each one in `matrix`.
        oldest = f"--python-version={PROJECT.pythons[0]}"
        environment.run(session, folder, "mypy", oldest, "noxfile.py", "tasks")
