"""Sessions about CI itself: whether the workflows only call sessions, and whether all are green."""

import os
from pathlib import Path

import nox

from tasks.affected import green as results
from tasks.catalogue import CATALOGUE, TIERS, session
from tasks.environments import environment
from tasks.errors import stop
from tasks.project import ROOT

_SCHEMAS = (
    ("github-workflows", ".github/workflows/*.y*ml"),
    ("github-actions", ".github/actions/*/action.y*ml"),
    ("dependabot", ".github/dependabot.yml"),
)

# No shellcheck: what it would read is `uvx nox`, and not every machine has one.
ACTIONLINT = ("-no-color", "-shellcheck=", "-pyflakes=")
# No file and no comment may excuse a finding; an exception would be an option here.
_WHOLE = ("--no-config", "--no-ignores", "--strict-collection")
ZIZMOR = ("--offline", "--persona=auditor", "--no-progress", *_WHOLE, ".github")


@session(tiers=["pr"], timeout_minutes=5, inputs=[".github"], parallel=True)
def workflows(session: nox.Session) -> None:
    """Check that the workflows only call sessions, pin their actions and hold few rights.

    The project's own rules are in tasks/github/workflow_rules.py; then the schemas of GitHub's
    files, actionlint and zizmor; and the checks that .github/rulesets requires are jobs. Nothing
    asks the network.
    """
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    known = [f"--sessions={','.join(CATALOGUE)}", f"--tiers={','.join(TIERS)}"]
    # First what GitHub itself would refuse: the rules take the files' shape for granted.
    for schema, pattern in _SCHEMAS:
        files = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob(pattern))
        vendored = f"--builtin-schema=vendor.{schema}"
        environment.run(session, tools, "check-jsonschema", vendored, *files)
    environment.run(session, tools, "python", "-m", "tasks.github.workflow_rules", *known)
    environment.run(session, tools, "python", "-m", "tasks.github.rulesets")
    environment.run(session, tools, "actionlint", *ACTIONLINT)
    environment.run(session, tools, "zizmor", *ZIZMOR)


@session(timeout_minutes=5)
def green(session: nox.Session) -> None:
    """Pass if every other job of the workflow did: the one required check, run by CI only.

    Reads the results from the variable NEEDS, which the workflow fills with toJSON(needs), and the
    manifests from the folder RESULTS, to which it downloads what the jobs left. A job may be
    skipped only if the plan was empty, and a planned session must have passed.
    """
    needs, left = os.environ.get("NEEDS"), os.environ.get("RESULTS")
    if needs is None or left is None:
        unset = "NEEDS: ${{ toJSON(needs) }}" if needs is None else "RESULTS: results"
        stop(f"green: judges a workflow's jobs, from {unset}; none is set")
    try:
        problems = results.problems(needs) + results.missing(needs, Path(left))
    except results.NeedsError as error:
        stop(f"green: {error}")
    if problems:
        session.error("; ".join(problems))
    session.log("Every job passed")
