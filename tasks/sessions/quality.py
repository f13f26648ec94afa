"""Static checks of the source: style, spelling, import contracts, the lock, types."""

import re
import sys
import tempfile

import nox

from tasks import git
from tasks.catalogue import session
from tasks.environments import environment
from tasks.errors import abort
from tasks.project import ROOT, WORKSPACE

SOURCE = ("noxfile.py", "benchmarks", "src", "tasks", "tests")

_HOOKS = ".pre-commit-config.yaml"
# Files that nobody ignores on purpose: a .gitignore pattern meant for data may hide a package.
_SOURCE_FILES = tuple(
    f":(glob){folder}/**/*.{suffix}"
    for folder in (".github", "benchmarks", "configs", "docs", "src", "tasks", "tests")
    for suffix in ("json", "md", "py", "toml", "yaml", "yml")
)


@session(tiers=["pr"], timeout_minutes=5, inputs=["."], parallel=True)
def lint(session: nox.Session) -> None:
    """Check style, formatting, spelling, imports, the lock, and that git tracks no model.

    Runs the hooks of .pre-commit-config.yaml over every tracked file, so a commit that passes
    its hooks passes here. Ruff applies its safe fixes. After --: the id of one hook.
    """
    reason = git.problem(ROOT)
    if reason:
        abort(f"lint: checks the files that git tracks, but git cannot list them: {reason}")
    tracked = _listed("--cached")
    if not tracked:
        abort("lint: git tracks no file here, so there is nothing to check; run: git add --all")
    new, hidden = _listed("--others"), _listed("--others", "--ignored", "--", *_SOURCE_FILES)
    if new:
        session.warn(f"Not checked, because git does not track them: {' '.join(new)}")
    if hidden:
        session.warn(f"Not checked, because .gitignore hides them: {' '.join(hidden)}")
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    arguments = ["run", "--all-files", *session.posargs]
    # Show the hooks' diff only in a clean tree: a changed lock alone has thousands of lines.
    if git.output("diff", "--quiet", cwd=ROOT) is not None:
        arguments.append("--show-diff-on-failure")
    if sys.stdout.isatty():
        arguments.append("--color=always")
    # Clear SKIP, with which a commit can bypass a hook: a check that runs nothing must not pass.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
        try:
            environment.run(session, tools, "pre-commit", *arguments, stdout=kept, SKIP="")
        finally:
            kept.seek(0)
            printed = kept.read()
            print(printed, end="", flush=True)
    idle = re.findall(r"^(.+?)\.+\(no files to check\)", printed, re.MULTILINE)
    if idle:
        session.error(f"hooks that checked no file: {', '.join(idle)}; fix files: in {_HOOKS}")
    session.log(f"{len(tracked):,} files are tracked")


def _listed(*which: str) -> list[str]:
    found = git.output("ls-files", "-z", "--exclude-standard", *which, cwd=ROOT) or ""
    return [name for name in found.split("\0") if name]


@session(tiers=["pr"], timeout_minutes=10, inputs=SOURCE, parallel=True, in_image=True)
def types(session: nox.Session) -> None:
    """Check types: mypy --strict over src, tasks and tests.

    After --: arguments of mypy, which replace the folders.
    """
    folder = environment.prepare_default_cell()
    environment.run(session, folder, "mypy", *(session.posargs or SOURCE))
    if not session.posargs:
        # The sessions run on the Python that runs Nox, which may be the oldest supported one. The
        # packages need no such check: `matrix` runs them on every version.
        oldest = f"--python-version={WORKSPACE.pythons[0]}"
        environment.run(session, folder, "mypy", oldest, "noxfile.py", "tasks")
