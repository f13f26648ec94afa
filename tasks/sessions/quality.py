"""Checks that read the source: style, spelling, import contracts, the lock, types."""

import re
import sys
import tempfile

import nox

from tasks import git
from tasks.catalogue import session
from tasks.environments import environment
from tasks.errors import stop
from tasks.project import ROOT, WORKSPACE

SOURCE = ("noxfile.py", "benchmarks", "src", "tasks", "tests")

_HOOKS = ".pre-commit-config.yaml"
# What nobody hides on purpose: a pattern that was meant for a folder of data may hide a package.
_SOURCE_FILES = tuple(
    f":(glob){folder}/**/*.{suffix}"
    for folder in (".github", "benchmarks", "configs", "docs", "src", "tasks", "tests")
    for suffix in ("json", "md", "py", "toml", "yaml", "yml")
)


@session(tiers=["pr"], timeout_minutes=5, inputs=["."], parallel=True)
def lint(session: nox.Session) -> None:
    """Check style, format, spelling, import contracts, the lock, and that git holds no model.

    Runs the hooks of .pre-commit-config.yaml over every tracked file, so a commit that passes
    its hooks passes here. Ruff mends what it safely can. After --: the id of one hook.
    """
    reason = git.problem(ROOT)
    if reason:
        stop(f"lint: checks the files that git tracks, and git cannot tell them: {reason}")
    tracked = _listed("--cached")
    if not tracked:
        stop("lint: git tracks no file here, so there is nothing to check; git add --all")
    new, hidden = _listed("--others"), _listed("--others", "--ignored", "--", *_SOURCE_FILES)
    if new:
        session.warn(f"Not checked, as git does not track them: {' '.join(new)}")
    if hidden:
        session.warn(f"Not checked, as .gitignore hides them: {' '.join(hidden)}")
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    arguments = ["run", "--all-files", *session.posargs]
    # What hooks have mended, and not what was changed before: a lock has thousands of lines.
    if git.output("diff", "--quiet", cwd=ROOT) is not None:
        arguments.append("--show-diff-on-failure")
    if sys.stdout.isatty():
        arguments.append("--color=always")
    # SKIP is how one commit goes past a hook; a check that runs nothing must not be green.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
        try:
            environment.run(session, tools, "pre-commit", *arguments, stdout=kept, SKIP="")
        finally:
            kept.seek(0)
            printed = kept.read()
            print(printed, end="", flush=True)
    idle = re.findall(r"^(.+?)\.+\(no files to check\)", printed, re.MULTILINE)
    if idle:
        session.error(f"checked no file: {', '.join(idle)}; see their files: in {_HOOKS}")
    session.log(f"{len(tracked):,} files are tracked")


def _listed(*which: str) -> list[str]:
    found = git.output("ls-files", "-z", "--exclude-standard", *which, cwd=ROOT) or ""
    return [name for name in found.split("\0") if name]


@session(tiers=["pr"], timeout_minutes=10, inputs=SOURCE, parallel=True, in_image=True)
def types(session: nox.Session) -> None:
    """Check types: mypy --strict over src, tasks and tests.

    After --: arguments of mypy, in place of the folders.
    """
    folder = environment.prepare_default_cell()
    environment.run(session, folder, "mypy", *(session.posargs or SOURCE))
    if not session.posargs:
        # The sessions run on whatever Python has Nox; the packages run on each one in `matrix`.
        oldest = f"--python-version={WORKSPACE.pythons[0]}"
        environment.run(session, folder, "mypy", oldest, "noxfile.py", "tasks")
