"""Sessions about CI itself: the rules for workflow files, and the result of a workflow's jobs."""

import os
from pathlib import Path

import nox

from tasks.affected import green as results
from tasks.catalogue import CATALOGUE, TIERS, session
from tasks.environments import environment
from tasks.errors import abort
from tasks.project import ROOT

_SCHEMAS = (
    ("github-workflows", ".github/workflows/*.y*ml"),
    ("github-actions", ".github/actions/*/action.y*ml"),
    ("dependabot", ".github/dependabot.yml"),
)

# No shellcheck: workflows contain only `nox` commands, and not every machine has it installed.
ACTIONLINT = ("-no-color", "-shellcheck=", "-pyflakes=")
# No configuration file or comment may hide a finding; add an option here for an exception.
_WHOLE = ("--no-config", "--no-ignores", "--strict-collection")
ZIZMOR = ("--offline", "--persona=auditor", "--no-progress", *_WHOLE, ".github")


@session(tiers=["pr"], timeout_minutes=5, inputs=[".github"], parallel=True)
def workflows(session: nox.Session) -> None:
    """Check that the workflows only call sessions, pin their actions and limit permissions.

    Runs GitHub's schemas, the project's rules in tasks/github/workflow_rules.py, actionlint and
    zizmor, and checks that every check required by .github/rulesets is a job. Uses no network.
    """
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    known = [f"--sessions={','.join(CATALOGUE)}", f"--tiers={','.join(TIERS)}"]
    # The schemas come first: the rules assume that the files' structure is valid.
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
    """Pass if every other job of the workflow passed: the one required check, run by CI only.

    Reads the results from the variable NEEDS, which the workflow sets to toJSON(needs), and the
    manifests from the folder RESULTS, into which it downloads the jobs' artifacts. A job may be
    skipped only if the plan was empty, and every planned session must have passed.
    """
    needs, left = os.environ.get("NEEDS"), os.environ.get("RESULTS")
    if needs is None or left is None:
        unset = "NEEDS: ${{ toJSON(needs) }}" if needs is None else "RESULTS: results"
        abort(f"green: runs only in a workflow, which must set {unset}; it is not set")
    try:
        problems = results.problems(needs) + results.missing(needs, Path(left))
    except results.NeedsError as error:
        abort(f"green: {error}")
    if problems:
        session.error("; ".join(problems))
    session.log("Every job passed")
