"""The project's rules for .github: sessions only, declared actions only, minimal permissions.

python -m tasks.github.workflow_rules --sessions=lint,unit --tiers=pr,nightly

Runs in the tools' environment, which has pydantic and ruamel.yaml; ruamel keeps line numbers.
A rule is a function that yields findings; `RULES` lists them. Defects that zizmor, actionlint or
GitHub's schemas report have no rule here (docs/decisions/workflow-rules.md).
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml.comments import CommentedMap

from tasks.display import show
from tasks.github import workflow_source
from tasks.github.job_names import CONTAINED, FED, GREEN, PLAN, PROJECT, PROJECTS, SESSION
from tasks.github.workflow_source import (
    Catalogue,
    Finding,
    Job,
    Source,
    mapping_at,
    names_in,
    steps_of,
    without_comment,
)

PATTERNS = (".github/workflows/*.y*ml", ".github/actions/*/action.y*ml")

# Configuration files that can make a tool ignore its findings.
EXCUSES = (".github/actionlint.y*ml", ".github/zizmor.y*ml")

# The table in pyproject.toml that lists what workflows may use.
SETTINGS = "[tool.tasks.workflows"

# Always pinned by digest, regardless of the values of the variable and the plan.
PLANNED_IMAGE = "docker://${{ vars.PLAN_IMAGE }}@sha256:${{ matrix.digest }}"
# The only keys in which the job in the image may differ from the job on the runner.
_MAY_DIFFER = frozenset(("container", "if", "strategy"))
ONE_OF_THE_MATRIX = '"$SESSION"'

_CALL = re.compile(
    rf"nox (?:-s (?:(?P<session>[\w-]+|{re.escape(ONE_OF_THE_MATRIX)})"
    rf'|"(?P<of_project>[\w-]+)\(\${PROJECT}\)")|-t (?P<tier>[\w-]+))'
    r"(?P<arguments> --(?: (?:[\w./=:@+-]+|\"\$[A-Z_]+\"))+)?"
)
_VARIABLE = re.compile(r"\$([A-Z_]+)")
# The plan takes each session's machine and time-out from the catalogue.
PLANNED = {
    "runs-on": "${{ matrix.labels }}",
    "timeout-minutes": "${{ matrix.timeout_minutes }}",
}
# Allowed inputs of the actions that fetch code and artifacts: none that selects another run,
# repository or commit.
_FETCHING_ACTIONS = {
    "actions/checkout": frozenset(("fetch-depth", "persist-credentials")),
    "actions/download-artifact": frozenset(
        ("artifact-ids", "merge-multiple", "name", "path", "pattern")
    ),
}
_JOB_OUTPUT = re.compile(r"\$\{\{ needs\.[\w-]+\.outputs\.[\w-]+ \}\}")
_PLAN_ARGUMENTS = re.compile(r" -- (?P<tier>[\w-]+)(?: --since \"\$BASE\"| --without [\w-]+)*")
_VERSION_COMMENT = re.compile(r"\s#\s*v\d+(\.\d+)*\b")
_SECRET = re.compile(r"\bsecrets\b(?!\s*\.\s*GITHUB_TOKEN\b)")
# The condition that keeps a job from running on forks that have not opted in.
GUARD = "(github.event.repository.fork == false || vars.RUN_ON_FORK == 'true')"
# With one of these in its condition, a job can run although a job that it needs was skipped.
_RUNS_AFTER_A_SKIP = re.compile(r"\|\||\b(always|cancelled|failure)\s*\(", re.IGNORECASE)
# Without the first three, some commits get no check. A label can request more sessions. An edit can
# change the base, and the old `green` then belongs to another comparison.
_TYPES = ("opened", "synchronize", "reopened", "labeled", "edited")
# One run at a time for each pull request or ref. Only a push or a new base cancels the old run; a
# label must not. (Skipping `green` is no alternative: GitHub counts a skipped check as passed.)
_GROUP = "${{ github.workflow }}-${{ github.event.pull_request.number || github.ref }}"
_CANCELS_OLD_RUNS = (
    "${{ github.event.action == 'synchronize' || github.event.changes.base.ref.from != '' }}"
)
# What the common jobs run. The plan is not listed: its command has a separate rule.
_RUNS = {SESSION: f"nox -s {ONE_OF_THE_MATRIX}", GREEN: f"nox -s {GREEN}"}
_RUNS[CONTAINED] = _RUNS[SESSION]
# The setup action that runs before every session, and the only script that it may run.
_SETUP_FILE = ".github/actions/setup/action.yml"
_NOX_FROM_LOCK = """\
uv venv --quiet "$RUNNER_TEMP/nox"
uv export --quiet --frozen --only-group nox --output-file "$RUNNER_TEMP/nox.txt"
uv pip sync --quiet --require-hashes --no-build --python "$RUNNER_TEMP/nox" "$RUNNER_TEMP/nox.txt"
ln --symbolic --force "$RUNNER_TEMP/nox/bin/nox" "$(dirname "$(command -v uv)")/nox\""""
# Where sessions put files for other jobs and for people.
_ARTIFACTS = "artifacts/"
# The longest time-out that a job may set itself.
_MAX_MINUTES = 120
# The tag ruleset protects only these tags. Branches are not released.
_RELEASED = {"tags": ["v*"]}
_RELEASE = "release"
# The tier, and the stem of the workflow file, that pull requests must pass.
_PULL_REQUEST_TIER = "pr"

Rule = Callable[[Source], Iterator[Finding]]


def calls_sessions_only(source: Source) -> Iterator[Finding]:
    """A step runs exactly one session of the catalogue, unconditionally, and no script."""
    for step in source.steps:
        if "run" in step and source.file != _SETUP_FILE:  # has a separate rule
            problem = _run_problem(step, source.catalogue)
            if problem:
                yield source.finding(step, "run", problem)
            if "if" in step:
                text = (
                    "a session that its condition skips counts as passed; remove if: and let the "
                    "plan decide"
                )
                yield source.finding(step, "if", text)


def _run_problem(step: CommentedMap, catalogue: Catalogue) -> str | None:
    command = str(step["run"]).strip()
    call = _CALL.fullmatch(command)
    if call is None:
        first, _, rest = command.partition("\n")
        shown = f"{first!r} and more lines" if rest else f"{first!r}"
        return f"runs {shown}, which is not one session; make it a session and run nox -s NAME"
    for variable in _VARIABLE.findall(command):
        if variable not in mapping_at(step, "env"):
            return f"{variable} is not set in this step; add env: {variable}:"
    if call["session"] == ONE_OF_THE_MATRIX:
        given = call["arguments"]
        return f"a planned session takes no arguments; remove{given}" if given else None
    return _unknown_name(call, catalogue)


def _session_of(call: re.Match[str]) -> str | None:
    """Return the name of the session in a command, without its project."""
    return call["session"] or call["of_project"]


def _unknown_name(call: re.Match[str], catalogue: Catalogue) -> str | None:
    session, tier = _session_of(call), call["tier"]
    if session is not None and session not in catalogue.sessions:
        return f"there is no session {session}; nox --list shows all sessions"
    if tier is not None and tier not in catalogue.tiers:
        return f"there is no tier {tier!r}; use one of {', '.join(sorted(catalogue.tiers))}"
    return None


def runs_in_the_repository_root(source: Source) -> Iterator[Finding]:
    """Another folder could contain another noxfile. zizmor reports unusual shells."""
    for each in [source.content, *source.jobs.values()]:
        if "defaults" in each:
            text = "changes the shell or the folder of every step; remove defaults:"
            yield source.finding(each, "defaults", text)
    for step in source.steps:
        if "working-directory" in step:
            text = "sessions run in the noxfile's folder; remove working-directory:"
            yield source.finding(step, "working-directory", text)


def sets_known_variables(source: Source) -> Iterator[Finding]:
    """Variables such as PATH or NOXSESSION can change which command a step runs."""
    for each in [source.content, *source.jobs.values()]:
        if "env" in each:
            text = "sets variables for every step; move env: to the step that needs them"
            yield source.finding(each, "env", text)
    for step in source.steps:
        env = step.get("env", CommentedMap())
        if not isinstance(env, CommentedMap):
            text = "it is unknown which variables this expression sets; list each variable"
            yield source.finding(step, "env", text)
            continue
        for name, value in env.items():
            allowed = source.catalogue.variables.get(name)
            if allowed is None:
                text = (
                    f"{name} is not declared; if a session needs it, add to {SETTINGS}.variables] "
                )
                text += f"in pyproject.toml: {name} = {json.dumps(str(value))}"
                yield source.finding(env, name, text)
            elif str(value) != allowed:
                text = f"{name} differs from its value in pyproject.toml; write {allowed}"
                yield source.finding(env, name, text)


def uses_allowed_actions(source: Source) -> Iterator[Finding]:
    """Only reviewed actions run, each pinned to a commit with its version in a comment."""
    for step in source.steps:
        problem = _uses_problem(str(step["uses"]), source, step) if "uses" in step else None
        if problem:
            yield source.finding(step, "uses", problem)
    for job in source.jobs.values():
        called = str(job.get("uses", "")).partition("@")[0]
        if "uses" in job and called not in source.catalogue.reusable:
            text = (
                "its steps are not checked here; once you have reviewed them, "
                f"{_add('reusable', called)}"
            )
            yield source.finding(job, "uses", text)
    runs = mapping_at(source.content, "runs")
    if not source.is_workflow and runs.get("using") != "composite":
        text = "only the steps of composite actions can be checked; write using: composite"
        yield source.finding(runs or source.content, "using", text)


def _uses_problem(used: str, source: Source, step: CommentedMap) -> str | None:
    action = used.partition("@")[0]
    if action not in source.catalogue.actions:
        return f"{action} is not allowed; once you have reviewed it, {_add('actions', action)}"
    line = source.lines[step.lc.key("uses")[0]]
    if not used.startswith("$/") and not _VERSION_COMMENT.search(line):
        return f"{action} lacks its version; add it as a comment after the commit: # v1.2.3"
    return None


def _add(key: str, name: str) -> str:
    return f"add it to {SETTINGS}] in pyproject.toml: {key} = [..., {json.dumps(name)}]"


def lists_permissions(source: Source) -> Iterator[Finding]:
    """Each job lists its permissions, and no job of a pull request may write."""
    if not source.is_workflow:
        return
    if source.content.get("permissions") != {}:
        text = "all jobs of the workflow share permissions; write permissions: {} at the top"
        yield source.finding(source.content, "permissions", text)
    for name, job in source.jobs.items():
        permissions = job.get("permissions")
        if not isinstance(permissions, Mapping):
            text = f"job {name} does not list its permissions; add permissions: contents: read"
            yield source.job_finding(name, "permissions", text)
        elif "pull_request" in source.triggers and "write" in permissions.values():
            text = f"job {name} has a write permission and runs on pull requests; allow only read"
            yield source.job_finding(name, "permissions", text)


def keeps_safeguards(source: Source) -> Iterator[Finding]:
    """A job keeps the safeguards that pyproject.toml declares; undeclared jobs are findings."""
    stem = Path(source.file).stem
    declared = source.catalogue.jobs.get(stem, {}) if source.is_workflow else {}
    if source.is_workflow:
        for name in sorted(declared.keys() - source.jobs.keys()):
            text = f"job {name} is missing; pyproject.toml declares it: {_table(stem, name)}"
            yield source.finding(source.content, "jobs", text)
    for name, job in source.jobs.items():
        if "uses" in job:
            if _write_permissions(job):
                text = (
                    f"job {name} has a write permission, but its steps are not checked here; "
                    "allow only read"
                )
                yield source.job_finding(name, "permissions", text)
        elif name in declared:
            yield from _differences(source, name, declared[name])
        elif name in {PLAN, *_RUNS}:
            yield from _differences(source, name, _common_job(source, name))
        else:
            text = f"job {name} is not declared; if you need it, add {_table(stem, name)} to "
            yield source.job_finding(name, None, f"{text}pyproject.toml")


def _table(stem: str, name: str) -> str:
    return f"{SETTINGS}.jobs.{stem}.{name}]"


def _common_job(source: Source, name: str) -> Job:
    """Return the requirements for a job that every workflow has; other rules check the rest."""
    job = source.jobs[name]
    planned = name in FED
    return Job(
        runs=[_RUNS[name]] if name in _RUNS else _commands(job)[:1],
        needs=names_in(job.get("needs")),
        condition=str(job.get("if", "")),
        machine=str(job.get("runs-on")) if planned else "ubuntu-24.04",
        uploads=[_ARTIFACTS] if planned else [],
    )


def _commands(job: CommentedMap) -> list[str]:
    return [str(step["run"]).strip() for step in steps_of(job) if "run" in step]


def _write_permissions(job: CommentedMap) -> list[str]:
    listed = job.get("permissions")
    return sorted(k for k, v in listed.items() if v == "write") if isinstance(listed, dict) else []


def _differences(source: Source, name: str, must: Job) -> Iterator[Finding]:
    job = source.jobs[name]
    environment = job.get("environment", "")
    pairs: list[tuple[str, Any, Any]] = [
        ("needs", sorted(names_in(job.get("needs"))), sorted(must.needs)),
        ("if", str(job.get("if", "")), must.condition),
        ("environment", environment, must.environment),
    ]
    if name not in FED:
        pairs.append(("runs-on", job.get("runs-on"), must.machine))
    if "pull_request" not in source.triggers:  # in those workflows, see lists_permissions
        pairs.append(("permissions", _write_permissions(job), sorted(must.writes)))
    for key, found, expected in pairs:
        if found != expected:
            fix = f"write {key}: {expected}" if expected else f"remove {key}:"
            if key == "permissions":
                fix = f"allow write access only to {', '.join(expected) or 'nothing'}"
            text = f"job {name} lacks its safeguard {key}; {fix}"
            yield source.job_finding(name, key, text)
    yield from _step_differences(source, name, must)
    minutes = job.get("timeout-minutes")
    if name not in FED and minutes is not None and not _is_allowed_timeout(minutes):
        text = f"job {name} has timeout-minutes {minutes}; write 1 to {_MAX_MINUTES}"
        yield source.job_finding(name, "timeout-minutes", text)


def _is_allowed_timeout(minutes: object) -> bool:
    return isinstance(minutes, int) and 0 < minutes <= _MAX_MINUTES


def _step_differences(source: Source, name: str, must: Job) -> Iterator[Finding]:
    job, commands = source.jobs[name], _commands(source.jobs[name])
    # Other rules report a step that does not run a session, and a last job without `nox -s green`.
    are_sessions = all(
        _run_problem(step, source.catalogue) is None for step in steps_of(job) if "run" in step
    )
    runs_green = name != GREEN or _RUNS[GREEN] in commands
    if are_sessions and runs_green and commands != [*must.runs]:
        text = f"job {name} must run, in order: {'; '.join(must.runs) or 'nothing'}"
        yield source.job_finding(name, "steps", text)
    if must.uses is not None:
        used = [
            (_action(step), str(step.get("if", ""))) for step in steps_of(job) if "uses" in step
        ]
        if used != [*must.uses.items()]:
            wanted = (f"{each} if: {when}" if when else each for each, when in must.uses.items())
            text = f"job {name} must use, in order: {'; '.join(wanted)}"
            yield source.job_finding(name, "steps", text)
    for step in steps_of(job):
        given = mapping_at(step, "with")
        if _action(step) == "actions/upload-artifact":
            paths = {line.strip() for line in str(given.get("path", "")).splitlines()}
            if not paths - {""} <= {*must.uploads} or "include-hidden-files" in given:
                allowed = " and ".join(must.uploads) or "nothing"
                text = f"job {name} may upload only {allowed}, and no hidden files"
                yield source.finding(step, "with", text)
        if "cache" in given and Path(source.file).stem == _RELEASE:
            yield source.finding(given, "cache", "a release must not use a cache; remove cache:")


def _action(step: CommentedMap) -> str:
    return str(step.get("uses", "")).partition("@")[0]


def installs_nox_from_the_lock(source: Source) -> Iterator[Finding]:
    """Nox and its dependencies run with access to secrets, so they must match the lock's hashes."""
    if source.file != _SETUP_FILE:
        return
    text = f"must run exactly this script, so that Nox comes from the lock: {_NOX_FROM_LOCK!r}"
    runs = [step for step in source.steps if "run" in step]
    for step in runs:
        command = str(step["run"]).strip()
        if command != _NOX_FROM_LOCK and not _CALL.fullmatch(command):
            yield source.finding(step, "run", text)
    if not runs:
        yield source.finding(source.content, "runs", text)


def keeps_actions_small(source: Source) -> Iterator[Finding]:
    """An action must not run a session, which could change what the job's own session checks."""
    for step in () if source.is_workflow else source.steps:
        if "run" in step and _run_problem(step, source.catalogue) is None:
            text = "an action must not run a session; run it in a job"
            yield source.finding(step, "run", text)


def releases_tags_only(source: Source) -> Iterator[Finding]:
    """Only pushes of protected tags are releases; branches and other tags are not."""
    if "push" in source.triggers and source.triggers["push"] != _RELEASED:
        text = 'only protected tags may start a push workflow; write push: with tags: ["v*"]'
        where = source.content["on"]
        parent = where if isinstance(where, CommentedMap) else source.content
        yield source.finding(parent, "push" if parent is where else "on", text)


def fetches_only_from_its_own_run(source: Source) -> Iterator[Finding]:
    """Steps must not fetch another commit, or artifacts of another run."""
    for step in source.steps:
        known = _FETCHING_ACTIONS.get(str(step.get("uses", "")).partition("@")[0])
        for key in mapping_at(step, "with").keys() - known if known else ():
            text = f"{key}: can fetch something other than what this run checks; remove it"
            yield source.finding(step["with"], key, text)
        given = str(mapping_at(step, "with").get("artifact-ids", ""))
        if given and not _JOB_OUTPUT.fullmatch(given):
            text = "is not an artifact of this run's jobs; write ${{ needs.JOB.outputs.NAME }}"
            yield source.finding(step["with"], "artifact-ids", text)


def cancels_outdated_runs(source: Source) -> Iterator[Finding]:
    """One run at a time for each pull request or ref; only a push or a new base cancels a run."""
    if not source.is_workflow:
        return
    concurrency = mapping_at(source.content, "concurrency")
    if "cancel-in-progress" not in concurrency:
        text = "outdated runs continue; add concurrency: with group: and cancel-in-progress:"
        yield source.finding(source.content, "concurrency", text)
        return
    if concurrency.get("group") != _GROUP:
        text = f"runs must be grouped by pull request or ref; write group: {_GROUP}"
        yield source.finding(concurrency, "group", text)
    cancels = _CANCELS_OLD_RUNS if "pull_request" in source.triggers else False
    if concurrency["cancel-in-progress"] != cancels:
        text = f"only a push or a new base may cancel the old run; write {cancels or 'false'}"
        yield source.finding(concurrency, "cancel-in-progress", text)


def has_timeouts(source: Source) -> Iterator[Finding]:
    """GitHub's default time-out is six hours."""
    for name, job in source.jobs.items():
        if "timeout-minutes" not in job and "uses" not in job:
            text = f"job {name} could hang for six hours; add timeout-minutes:"
            yield source.job_finding(name, "timeout-minutes", text)


def guards_forks(source: Source) -> Iterator[Finding]:
    """Forks have no secrets, and must not pay for nightly runs that they did not ask for."""
    for name in source.jobs:
        if not _is_guarded(source, name):
            if "schedule" in source.triggers:
                text = f"job {name} runs every night in every fork; {_ADD_GUARD}"
                yield source.job_finding(name, "if", text)
            for line in _job_lines(source, name):
                if _SECRET.search(without_comment(source.lines[line])):
                    text = f"job {name} reads a secret that forks do not have; {_ADD_GUARD}"
                    yield Finding(source.file, line + 1, text)


_ADD_GUARD = f"add if: {GUARD}"


def _is_guarded(source: Source, name: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a job is skipped on forks by its own condition or by a job that it needs."""
    job = source.jobs.get(name)
    if job is None or name in seen:
        return False
    # On a fork, RUNS_HERE makes the plan empty, and `plan` prints the reason.
    guards = ({"RUNS_HERE"} <= mapping_at(step, "env").keys() for step in steps_of(job))
    if name == PLAN and any(guards):
        return True
    condition = str(job.get("if", ""))
    terms = [term.strip() for term in condition.split("&&")]
    # In the middle of a condition, the guard could be inside negated parentheses.
    if "||" not in condition.replace(GUARD, "") and GUARD in {terms[0], terms[-1]}:
        return True
    if _RUNS_AFTER_A_SKIP.search(condition.replace(GUARD, "")):
        return False
    return any(_is_guarded(source, each, seen | {name}) for each in names_in(job.get("needs")))


def _job_lines(source: Source, name: str) -> range:
    jobs = source.content["jobs"]
    start = jobs.lc.key(name)[0]
    nexts = [parent.lc.key(key)[0] for parent in (jobs, source.content) for key in parent]
    return range(start, min((line for line in nexts if line > start), default=len(source.lines)))


def has_safe_triggers(source: Source) -> Iterator[Finding]:
    """The required check reports on every pull request and in the merge queue, from pr.yml only."""
    on = source.content.get("on")
    where = on if isinstance(on, CommentedMap) else source.content
    if "pull_request" not in source.triggers:
        return
    if Path(source.file).stem != _PULL_REQUEST_TIER:
        text = f"only {_PULL_REQUEST_TIER}.yml checks pull requests; remove pull_request:"
        yield source.finding(where, "pull_request", text)
    if "merge_group" not in source.triggers:
        text = "the merge queue would wait forever; add the trigger merge_group:"
        yield source.finding(source.content, "on", text)
    for trigger in ("pull_request", "merge_group"):
        settings = mapping_at(source.triggers, trigger)
        for key in settings.keys() - {"types"}:
            text = f"{key}: could leave the required check waiting; remove it, as the plan selects"
            yield source.finding(settings, key, text)
    settings = mapping_at(source.triggers, "pull_request")
    if missing := [each for each in _TYPES if each not in names_in(settings.get("types"))]:
        text = f"does not start when {', '.join(missing)}; write types: [{', '.join(_TYPES)}]"
        yield source.finding(settings or where, "types" if settings else "pull_request", text)


def does_not_ignore_errors(source: Source) -> Iterator[Finding]:
    """`continue-on-error` reports a failure as success, so `green` would pass."""
    for each in [*source.steps, *source.jobs.values()]:
        if each.get("continue-on-error", False) is not False:
            text = "a failure would count as success; remove continue-on-error:"
            yield source.finding(each, "continue-on-error", text)


def runs_the_whole_plan(source: Source) -> Iterator[Finding]:
    """A job's matrix is an output of the plan, and one failed session does not stop the others."""
    for name, job in source.jobs.items():
        if "strategy" not in job:
            continue
        strategy = mapping_at(job, "strategy")
        if strategy.get("fail-fast") is not False:
            text = f"job {name}: the first failure cancels the other sessions; add fail-fast: false"
            yield source.finding(strategy, "fail-fast", text)
        planned = _from_plan(FED.get(name, PROJECTS))
        if strategy.get("matrix") != planned:
            text = f"job {name}: the matrix must be an output of the plan; write matrix: {planned}"
            yield source.finding(strategy, "matrix", text)


def _from_plan(output: str) -> str:
    return f"${{{{ fromJSON(needs.{PLAN}.outputs.{output}) }}}}"


def plans_all_of_its_tier(source: Source) -> Iterator[Finding]:
    """The plan covers the tier that names the file, except sessions that the file runs itself.

    With a smaller plan, `green` would pass although sessions did not run.
    """
    if not source.is_workflow:
        return
    if PLAN not in source.jobs:
        text = f"no job {PLAN}, so no session is planned; add one, as in pr.yml"
        yield source.finding(source.content, "jobs", text)
        return
    job = source.jobs[PLAN]
    step = next((each for each in steps_of(job) if each.get("id") == PLAN), CommentedMap())
    call = _CALL.fullmatch(str(step.get("run", "")).strip())
    if call is None or call["session"] != PLAN:
        text = f"job {PLAN}: the step with id: {PLAN} must run nox -s {PLAN}; see pr.yml"
        yield source.job_finding(PLAN, "steps", text)
    elif "pull_request" in source.triggers and "PLAN_FROM_FORK" not in mapping_at(step, "env"):
        text = "cannot keep a fork's pull request off self-hosted machines; add env: "
        text += "PLAN_FROM_FORK, as declared in pyproject.toml"
        yield source.finding(step, "run", text)
    elif problem := _plan_problem(call["arguments"] or "", source):
        yield source.finding(step, "run", problem)
    planned = {output: f"${{{{ steps.{PLAN}.outputs.{output} }}}}" for output in _outputs(source)}
    if job.get("outputs") != planned:
        lines = ", ".join(f"{output}: {value}" for output, value in planned.items())
        text = f"job {PLAN}: its outputs must be those of the plan; write {lines}"
        yield source.job_finding(PLAN, "outputs", text)


def _outputs(source: Source) -> list[str]:
    outputs = [output for name, output in FED.items() if name in source.jobs]
    matrices = [mapping_at(job, "strategy").get("matrix") for job in source.jobs.values()]
    return [*outputs, *([PROJECTS] if _from_plan(PROJECTS) in matrices else [])]


def _plan_problem(arguments: str, source: Source) -> str | None:
    found, tier = _PLAN_ARGUMENTS.fullmatch(arguments), Path(source.file).stem
    if found is None or found["tier"] != tier:
        return (
            f'does not plan this file\'s tier; write plan -- {tier} (pr also takes --since "$BASE")'
        )
    calls = (_CALL.fullmatch(str(step.get("run", "")).strip()) for step in source.steps)
    called = {_session_of(call) for call in calls if call is not None}
    for name in re.findall(r"--without (\S+)", arguments):
        if name not in called:
            return f"{name} is left out of the plan but no job runs it; remove --without {name}"
    return None


def runs_on_the_planned_machine(source: Source) -> Iterator[Finding]:
    """A planned session gets the machine and the time-out that it declares."""
    for name in source.jobs.keys() & FED.keys():
        for key, planned in PLANNED.items():
            if source.jobs[name].get(key) != planned:
                text = f"job {name} must take {key} from the plan; write {key}: {planned}"
                yield source.job_finding(name, key, text)


def runs_planned_image_jobs(source: Source) -> Iterator[Finding]:
    """Sessions planned for the image run in a job that differs only in its container."""
    steps = steps_of(source.jobs.get(PLAN, {}))
    job = source.jobs.get(CONTAINED)
    if job is None:
        if any("PLAN_IMAGE" in mapping_at(step, "env") for step in steps):
            text = f"no job runs the sessions planned for the image; add {CONTAINED}, as in pr.yml"
            yield source.job_finding(PLAN, "steps", text)
        return
    if job.get("container") != PLANNED_IMAGE:
        text = f"job {CONTAINED} does not use the planned image; write container: {PLANNED_IMAGE}"
        yield source.job_finding(CONTAINED, "container", text)
    outside: Mapping[str, Any] = source.jobs.get(SESSION, {})
    for key in sorted((job.keys() | outside.keys()) - _MAY_DIFFER):
        if job.get(key) != outside.get(key):
            text = f"job {CONTAINED} differs from {SESSION}; give both the same {key}"
            yield source.job_finding(CONTAINED, key, text)


def ends_in_green(source: Source) -> Iterator[Finding]:
    """The last job needs all others and always runs; only on pull requests is it named `green`."""
    if not source.is_workflow:
        return
    job = source.jobs.get(GREEN)
    if job is None:
        text = f"no job {GREEN}, so a skipped job goes unnoticed; add one, as in pr.yml"
        yield source.finding(source.content, "jobs", text)
        return
    missing = sorted({*source.jobs} - {GREEN, *names_in(job.get("needs"))})
    if missing:
        text = f"{GREEN} does not depend on {', '.join(missing)}; add to its needs:"
        yield source.job_finding(GREEN, "needs", text)
    guarded = () if "pull_request" in source.triggers else (f"always() && {GUARD}",)
    if job.get("if") not in ("always()", *guarded):
        allowed = " or if: ".join(("always()", *guarded))
        text = f"{GREEN} could be skipped, for example when a job fails; write if: {allowed}"
        yield source.job_finding(GREEN, "if", text)
    for name, other in source.jobs.items():
        if name != GREEN and other.get("name") == GREEN:
            text = f"job {name} would report as the check {GREEN}; give it another name:"
            yield source.job_finding(name, "name", text)
    yield from _runs_green(source, job)


def _runs_green(source: Source, job: CommentedMap) -> Iterator[Finding]:
    calls = [step for step in steps_of(job) if step.get("run") == f"nox -s {GREEN}"]
    if not any("NEEDS" in mapping_at(step, "env") for step in calls):
        text = f"run: nox -s {GREEN} with env: NEEDS: ${{{{ toJSON(needs) }}}} is missing"
        yield source.finding(calls[0] if calls else job, "run" if calls else "steps", text)
    is_required = "pull_request" in source.triggers
    if is_required and job.get("name", GREEN) != GREEN:
        text = f"pull requests require a check named {GREEN}; write name: {GREEN}"
        yield source.job_finding(GREEN, "name", text)
    if not is_required and job.get("name", GREEN) == GREEN:
        text = (
            f"a manual run on a branch would report as a pull request's check {GREEN}; "
            "give it another name:"
        )
        yield source.job_finding(GREEN, "name", text)


def downloads_the_results(source: Source) -> Iterator[Finding]:
    """The last job downloads all artifacts: a job that ran no session also counts as success."""
    steps = steps_of(source.jobs.get(GREEN, {}))
    uses = "actions/download-artifact@"
    downloads = [step for step in steps if str(step.get("uses", "")).startswith(uses)]
    folders = {mapping_at(step, "with").get("path") for step in downloads} - {None}
    for step in steps:
        is_green = step.get("run") == f"nox -s {GREEN}"
        if is_green and mapping_at(step, "env").get("RESULTS") not in folders:
            text = (
                "does not have the sessions' artifacts; download them to path: results in an "
                "earlier step, and add env: RESULTS: results"
            )
            yield source.finding(step, "run", text)


RULES: tuple[Rule, ...] = (
    calls_sessions_only,
    runs_in_the_repository_root,
    sets_known_variables,
    uses_allowed_actions,
    lists_permissions,
    keeps_safeguards,
    installs_nox_from_the_lock,
    keeps_actions_small,
    releases_tags_only,
    fetches_only_from_its_own_run,
    cancels_outdated_runs,
    has_timeouts,
    guards_forks,
    has_safe_triggers,
    does_not_ignore_errors,
    runs_the_whole_plan,
    plans_all_of_its_tier,
    runs_on_the_planned_machine,
    runs_planned_image_jobs,
    ends_in_green,
    downloads_the_results,
)


def check(root: Path, catalogue: Catalogue) -> list[Finding]:
    """Return the findings of all rules in the workflows and actions of `root`."""
    files = sorted(file for pattern in PATTERNS for file in root.glob(pattern))
    found = [finding for file in files for finding in _check_file(file, root, catalogue)]
    if not any("workflows" in file.parts for file in files):
        text = "contains no workflow; to restore them, run git checkout .github"
        found.append(Finding(".github/workflows", 1, text))
    for file in (file for pattern in EXCUSES for file in root.glob(pattern)):
        text = "this file can hide findings; delete it and fix what the tool then reports"
        found.append(Finding(str(file.relative_to(root)), 1, text))
    return sorted(found)


def _check_file(file: Path, root: Path, catalogue: Catalogue) -> list[Finding]:
    source = workflow_source.read(file, root, catalogue)
    if isinstance(source, Finding):
        return [source]
    return [finding for rule in RULES for finding in rule(source)]


class _Job(BaseModel):
    """[tool.tasks.workflows.jobs.FILE.NAME]: see `Job`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    runs: list[str]
    needs: list[str] = []
    condition: str = Field(default="", alias="if")
    environment: str = ""
    machine: str = Field(default="ubuntu-24.04", alias="runs-on")
    writes: list[str] = []
    uploads: list[str] = []
    uses: dict[str, str] | None = None


class _Allowed(BaseModel):
    """[tool.tasks.workflows]: what workflows may use besides sessions.

    Args:
        actions: OWNER/NAME or OWNER/NAME/PATH, or the folder of an action in this repository.
        reusable: workflows that a job may call.
        variables: environment variables that a step may set, each with its only allowed value.
        jobs: the requirements for the jobs of each workflow, by the file's stem.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    actions: list[str]
    reusable: list[str]
    variables: dict[str, str]
    jobs: dict[str, dict[str, _Job]]


def read_catalogue(root: Path, *, sessions: Iterable[str], tiers: Iterable[str]) -> Catalogue:
    """Return what workflows may call and use.

    Raises:
        ValidationError: [tool.tasks.workflows] in pyproject.toml is invalid.
    """
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    allowed = _Allowed.model_validate(settings["tool"]["tasks"].get("workflows", {}))
    return Catalogue(
        sessions=frozenset(sessions),
        tiers=frozenset(tiers),
        actions=frozenset(allowed.actions),
        reusable=frozenset(allowed.reusable),
        variables=allowed.variables,
        jobs={
            file: {name: Job(**job.model_dump()) for name, job in jobs.items()}
            for file, jobs in allowed.jobs.items()
        },
    )


def main(arguments: Sequence[str], root: Path) -> int:
    """Print a line for each finding; return 1 if there is one, 2 if the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tasks.github.workflow_rules")
    parser.add_argument("--sessions", required=True, help="comma-separated names of all sessions")
    parser.add_argument("--tiers", required=True, help="comma-separated names of all tiers")
    given = parser.parse_args(arguments)
    sessions, tiers = given.sessions.split(","), given.tiers.split(",")
    try:
        catalogue = read_catalogue(root, sessions=sessions, tiers=tiers)
    except ValidationError as error:
        for each in error.errors():
            place = ".".join(map(str, each["loc"]))
            print(f"pyproject.toml: {SETTINGS}] {place}: {each['msg']}", file=sys.stderr)
        return 2
    found = check(root, catalogue)
    show(*map(str, found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path.cwd()))
