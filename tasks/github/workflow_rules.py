"""The project's rules for .github: workflows call sessions, use what is allowed, hold few rights.

python -m tasks.github.workflow_rules --sessions=lint,unit --tiers=pr,nightly

Run by the Python of the tools' environment, which has pydantic and ruamel.yaml: it knows each
line's number. A rule is a function that yields what it finds; `RULES` lists them. What zizmor,
actionlint or GitHub's schemas find has no rule here (docs/decisions/workflow-rules.md).
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

# With these a tool passes over what it finds.
EXCUSES = (".github/actionlint.y*ml", ".github/zizmor.y*ml")

# The table of pyproject.toml with what workflows may use.
SETTINGS = "[tool.tasks.workflows"

# Whatever the variable and the plan say, it is an image by digest.
PLANNED_IMAGE = "docker://${{ vars.PLAN_IMAGE }}@sha256:${{ matrix.digest }}"
# In these the job in the image differs from the one that is not.
_OF_ITS_OWN = frozenset(("container", "if", "strategy"))
ONE_OF_THE_MATRIX = '"$SESSION"'

_CALL = re.compile(
    rf"nox (?:-s (?:(?P<session>[\w-]+|{re.escape(ONE_OF_THE_MATRIX)})"
    rf'|"(?P<of_project>[\w-]+)\(\${PROJECT}\)")|-t (?P<tier>[\w-]+))'
    r"(?P<arguments> --(?: (?:[\w./=:@+-]+|\"\$[A-Z_]+\"))+)?"
)
_VARIABLE = re.compile(r"\$([A-Z_]+)")
# The machine and the time-out of a planned session are the catalogue's.
PLANNED = {
    "runs-on": "${{ matrix.labels }}",
    "timeout-minutes": "${{ matrix.timeout_minutes }}",
}
# What may be said to the actions that bring in what is judged: nothing that names another run,
# repository or commit.
_BROUGHT_IN_BY = {
    "actions/checkout": frozenset(("fetch-depth", "persist-credentials")),
    "actions/download-artifact": frozenset(
        ("artifact-ids", "merge-multiple", "name", "path", "pattern")
    ),
}
_OF_ANOTHER_JOB = re.compile(r"\$\{\{ needs\.[\w-]+\.outputs\.[\w-]+ \}\}")
_ARGUMENTS_OF_PLAN = re.compile(r" -- (?P<tier>[\w-]+)(?: --since \"\$BASE\"| --without [\w-]+)*")
_VERSION_COMMENT = re.compile(r"\s#\s*v\d+(\.\d+)*\b")
_SECRET = re.compile(r"\bsecrets\b(?!\s*\.\s*GITHUB_TOKEN\b)")
# What keeps a job from running on a fork that has not asked for it.
GUARD = "(github.event.repository.fork == false || vars.RUN_ON_FORK == 'true')"
# With one of these a job can run though the one that it needs was skipped.
_RUNS_AFTER_A_SKIP = re.compile(r"\|\||\b(always|cancelled|failure)\s*\(", re.IGNORECASE)
# A commit has no check without the first three; a label can ask for more, and an edit can change
# the base, so that the old `green` is of another comparison.
_TYPES = ("opened", "synchronize", "reopened", "labeled", "edited")
# One run at a time for each pull request or ref. Only a push and another base end the old one: a
# label must not. (No `green` may be skipped instead: GitHub counts a skipped check as passed.)
_GROUP = "${{ github.workflow }}-${{ github.event.pull_request.number || github.ref }}"
_ENDS_OLD_RUNS = (
    "${{ github.event.action == 'synchronize' || github.event.changes.base.ref.from != '' }}"
)
# What the jobs of every workflow run, besides the plan, whose line has a rule of its own.
_RUNS = {SESSION: f"nox -s {ONE_OF_THE_MATRIX}", GREEN: f"nox -s {GREEN}"}
_RUNS[CONTAINED] = _RUNS[SESSION]
# The action of our own that comes before every session, and what it does besides installing uv.
_SETUP_FILE = ".github/actions/setup/action.yml"
_NOX_FROM_LOCK = """\
uv venv --quiet "$RUNNER_TEMP/nox"
uv export --quiet --frozen --only-group nox --output-file "$RUNNER_TEMP/nox.txt"
uv pip sync --quiet --require-hashes --no-build --python "$RUNNER_TEMP/nox" "$RUNNER_TEMP/nox.txt"
ln --symbolic --force "$RUNNER_TEMP/nox/bin/nox" "$(dirname "$(command -v uv)")/nox\""""
# Where a session leaves what other jobs and people read.
_LEFT = "artifacts/"
# No job that names its time-out itself needs longer.
_MOST_MINUTES = 120
# The ruleset of tags protects these only; a branch is no release.
_RELEASED = {"tags": ["v*"]}
_RELEASE = "release"
# The tier, and so the file, whose plan a pull request must pass.
_OF_PULL_REQUESTS = "pr"

Rule = Callable[[Source], Iterator[Finding]]


def calls_sessions_only(source: Source) -> Iterator[Finding]:
    """A step runs one session of the catalogue, unconditionally, and no script."""
    for step in source.steps:
        if "run" in step and source.file != _SETUP_FILE:  # that runs no session
            problem = _problem_of_run(step, source.catalogue)
            if problem:
                yield source.finding(step, "run", problem)
            if "if" in step:
                text = "a session with a condition is green when it is skipped; let the plan decide"
                yield source.finding(step, "if", text)


def _problem_of_run(step: CommentedMap, catalogue: Catalogue) -> str | None:
    command = str(step["run"]).strip()
    call = _CALL.fullmatch(command)
    if call is None:
        first, _, rest = command.partition("\n")
        shown = f"{first!r} and more lines" if rest else f"{first!r}"
        return f"runs {shown}, which is not one session; make it one and call nox -s NAME"
    for variable in _VARIABLE.findall(command):
        if variable not in mapping_at(step, "env"):
            return f"{variable} is not set in this step; add env: {variable}:"
    if call["session"] == ONE_OF_THE_MATRIX:
        given = call["arguments"]
        return f"a planned session runs whole; leave out{given}" if given else None
    return _unknown_name(call, catalogue)


def _session_of(call: re.Match[str]) -> str | None:
    """Return the session that a line calls, without the project that it is for."""
    return call["session"] or call["of_project"]


def _unknown_name(call: re.Match[str], catalogue: Catalogue) -> str | None:
    session, tier = _session_of(call), call["tier"]
    if session is not None and session not in catalogue.sessions:
        return f"no session is named {session}; nox --list shows them"
    if tier is not None and tier not in catalogue.tiers:
        return f"no tier is named {tier!r}; write one of {', '.join(sorted(catalogue.tiers))}"
    return None


def keeps_the_folder(source: Source) -> Iterator[Finding]:
    """Another folder has another noxfile; zizmor finds a shell that is another command."""
    for each in [source.content, *source.jobs.values()]:
        if "defaults" in each:
            text = "every step gets another shell or folder; leave defaults: out"
            yield source.finding(each, "defaults", text)
    for step in source.steps:
        if "working-directory" in step:
            text = "sessions run where the noxfile is; leave working-directory: out"
            yield source.finding(step, "working-directory", text)


def sets_known_variables(source: Source) -> Iterator[Finding]:
    """A variable like PATH or NOXSESSION makes another command of what a step runs."""
    for each in [source.content, *source.jobs.values()]:
        if "env" in each:
            text = "every step gets these variables; give them to the step that needs them"
            yield source.finding(each, "env", text)
    for step in source.steps:
        env = step.get("env", CommentedMap())
        if not isinstance(env, CommentedMap):
            yield source.finding(step, "env", "no one can tell what this sets; write the names out")
            continue
        for name, value in env.items():
            allowed = source.catalogue.variables.get(name)
            if allowed is None:
                text = (
                    f"{name} is not declared; if a session reads it, add to {SETTINGS}.variables] "
                )
                text += f"in pyproject.toml: {name} = {json.dumps(str(value))}"
                yield source.finding(env, name, text)
            elif str(value) != allowed:
                text = f"{name} has another value than in pyproject.toml; write {allowed}"
                yield source.finding(env, name, text)


def uses_what_is_allowed(source: Source) -> Iterator[Finding]:
    """Only actions that somebody has read run, each by a commit that says its version."""
    for step in source.steps:
        problem = _problem_of_use(str(step["uses"]), source, step) if "uses" in step else None
        if problem:
            yield source.finding(step, "uses", problem)
    for job in source.jobs.values():
        called = str(job.get("uses", "")).partition("@")[0]
        if "uses" in job and called not in source.catalogue.reusable:
            text = (
                f"its steps are not checked here; if you have read them, {_add('reusable', called)}"
            )
            yield source.finding(job, "uses", text)
    runs = mapping_at(source.content, "runs")
    if not source.is_workflow and runs.get("using") != "composite":
        text = "is a program, and none of its steps is checked; write using: composite"
        yield source.finding(runs or source.content, "using", text)


def _problem_of_use(used: str, source: Source, step: CommentedMap) -> str | None:
    action = used.partition("@")[0]
    if action not in source.catalogue.actions:
        return f"{action} is not allowed; if you have read what it does, {_add('actions', action)}"
    line = source.lines[step.lc.key("uses")[0]]
    if not used.startswith("$/") and not _VERSION_COMMENT.search(line):
        return f"{action} does not say its version; add it behind the commit: # v1.2.3"
    return None


def _add(key: str, name: str) -> str:
    return f"add it to {SETTINGS}] in pyproject.toml: {key} = [..., {json.dumps(name)}]"


def holds_few_rights(source: Source) -> Iterator[Finding]:
    """Nobody has a right that a job does not say it needs."""
    if not source.is_workflow:
        return
    if source.content.get("permissions") != {}:
        text = "the workflow's jobs share rights; write permissions: {} at the top"
        yield source.finding(source.content, "permissions", text)
    for name, job in source.jobs.items():
        rights = job.get("permissions")
        if not isinstance(rights, Mapping):
            text = f"job {name} does not list its rights; add permissions: with contents: read"
            yield source.job_finding(name, "permissions", text)
        elif "pull_request" in source.triggers and "write" in rights.values():
            text = f"job {name} may write, and pull requests run it; leave it at read"
            yield source.job_finding(name, "permissions", text)


def has_what_it_must(source: Source) -> Iterator[Finding]:
    """A job has the safeguards that pyproject.toml declares for it; any other job has no rights."""
    stem = Path(source.file).stem
    declared = source.catalogue.jobs.get(stem, {}) if source.is_workflow else {}
    if source.is_workflow:
        for name in sorted(declared.keys() - source.jobs.keys()):
            text = f"job {name} is missing; pyproject.toml says what it has: {_table(stem, name)}"
            yield source.finding(source.content, "jobs", text)
    for name, job in source.jobs.items():
        if "uses" in job:
            if _written(job):
                text = f"job {name} may write, and its steps are not read here; leave it at read"
                yield source.job_finding(name, "permissions", text)
        elif name in declared:
            yield from _differences(source, name, declared[name])
        elif name in {PLAN, *_RUNS}:
            yield from _differences(source, name, _of_every_workflow(source, name))
        else:
            text = f"job {name} is not declared; if it is needed, add {_table(stem, name)} to "
            yield source.job_finding(name, None, f"{text}pyproject.toml")


def _table(stem: str, name: str) -> str:
    return f"{SETTINGS}.jobs.{stem}.{name}]"


def _of_every_workflow(source: Source, name: str) -> Job:
    """Return what a job must have that every workflow has; its own rules say the rest."""
    job = source.jobs[name]
    planned = name in FED
    return Job(
        runs=[_RUNS[name]] if name in _RUNS else _lines_run(job)[:1],
        needs=names_in(job.get("needs")),
        condition=str(job.get("if", "")),
        machine=str(job.get("runs-on")) if planned else "ubuntu-24.04",
        uploads=[_LEFT] if planned else [],
    )


def _lines_run(job: CommentedMap) -> list[str]:
    return [str(step["run"]).strip() for step in steps_of(job) if "run" in step]


def _written(job: CommentedMap) -> list[str]:
    rights = job.get("permissions")
    return sorted(k for k, v in rights.items() if v == "write") if isinstance(rights, dict) else []


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
    if "pull_request" not in source.triggers:  # where no job may write: holds_few_rights
        pairs.append(("permissions", _written(job), sorted(must.writes)))
    for key, found, expected in pairs:
        if found != expected:
            shown = f"write {key}: {expected}" if expected else f"leave {key}: out"
            what = f"write only {', '.join(expected) or 'nothing'}" if key == "permissions" else ""
            text = f"job {name} lacks its safeguard {key}; {what or shown}"
            yield source.job_finding(name, key, text)
    yield from _differences_of_steps(source, name, must)
    minutes = job.get("timeout-minutes")
    if name not in FED and minutes is not None and not _is_short(minutes):
        text = f"job {name} may take {minutes} minutes; write at most {_MOST_MINUTES}"
        yield source.job_finding(name, "timeout-minutes", text)


def _is_short(minutes: object) -> bool:
    return isinstance(minutes, int) and 0 < minutes <= _MOST_MINUTES


def _differences_of_steps(source: Source, name: str, must: Job) -> Iterator[Finding]:
    job, lines = source.jobs[name], _lines_run(source.jobs[name])
    # Other rules report a line that does not call a session, and a last job that does not ask.
    are_sessions = all(
        _problem_of_run(step, source.catalogue) is None for step in steps_of(job) if "run" in step
    )
    is_asking = name != GREEN or _RUNS[GREEN] in lines
    if are_sessions and is_asking and lines != [*must.runs]:
        text = (
            f"job {name} does not run what it must, in order: {'; '.join(must.runs) or 'nothing'}"
        )
        yield source.job_finding(name, "steps", text)
    if must.uses is not None:
        used = [
            (_action(step), str(step.get("if", ""))) for step in steps_of(job) if "uses" in step
        ]
        if used != [*must.uses.items()]:
            wanted = (f"{each} if: {when}" if when else each for each, when in must.uses.items())
            text = f"job {name} does not use what it must, in order: {'; '.join(wanted)}"
            yield source.job_finding(name, "steps", text)
    for step in steps_of(job):
        given = mapping_at(step, "with")
        if _action(step) == "actions/upload-artifact":
            paths = {line.strip() for line in str(given.get("path", "")).splitlines()}
            if not paths - {""} <= {*must.uploads} or "include-hidden-files" in given:
                may = " and ".join(must.uploads) or "nothing"
                text = f"job {name} may upload {may}, without hidden files"
                yield source.finding(step, "with", text)
        if "cache" in given and Path(source.file).stem == _RELEASE:
            yield source.finding(
                given, "cache", "a release takes nothing from a cache; leave it out"
            )


def _action(step: CommentedMap) -> str:
    return str(step.get("uses", "")).partition("@")[0]


def installs_nox_from_the_lock(source: Source) -> Iterator[Finding]:
    """Nox and all that it depends on run beside secrets, so that their hashes are the lock's."""
    if source.file != _SETUP_FILE:
        return
    text = f"may run just this, so that Nox is the lock's: {_NOX_FROM_LOCK!r}"
    runs = [step for step in source.steps if "run" in step]
    for step in runs:
        command = str(step["run"]).strip()
        if command != _NOX_FROM_LOCK and not _CALL.fullmatch(command):
            yield source.finding(step, "run", text)
    if not runs:
        yield source.finding(source.content, "runs", text)


def keeps_actions_small(source: Source) -> Iterator[Finding]:
    """An action runs no session: it comes before one, and could change what that one checks."""
    for step in () if source.is_workflow else source.steps:
        if "run" in step and _problem_of_run(step, source.catalogue) is None:
            yield source.finding(step, "run", "an action runs no session; call it in a job")


def releases_tags_only(source: Source) -> Iterator[Finding]:
    """A push to a branch is no release, and other tags are not protected."""
    if "push" in source.triggers and source.triggers["push"] != _RELEASED:
        text = 'not only the tags that a ruleset protects; write push: with tags: ["v*"]'
        where = source.content["on"]
        parent = where if isinstance(where, CommentedMap) else source.content
        yield source.finding(parent, "push" if parent is where else "on", text)


def brings_in_what_started_it(source: Source) -> Iterator[Finding]:
    """Another commit, or what another run has left, is not what is judged."""
    for step in source.steps:
        known = _BROUGHT_IN_BY.get(str(step.get("uses", "")).partition("@")[0])
        for key in mapping_at(step, "with").keys() - known if known else ():
            text = f"{key}: brings in something else than what is judged; leave it out"
            yield source.finding(step["with"], key, text)
        given = str(mapping_at(step, "with").get("artifact-ids", ""))
        if given and not _OF_ANOTHER_JOB.fullmatch(given):
            text = "not what another job has left; write ${{ needs.JOB.outputs.NAME }}"
            yield source.finding(step["with"], "artifact-ids", text)


def cancels_what_is_outdated(source: Source) -> Iterator[Finding]:
    """One run at a time for each pull request or ref; only what outdates an old run ends it."""
    if not source.is_workflow:
        return
    concurrency = mapping_at(source.content, "concurrency")
    if "cancel-in-progress" not in concurrency:
        text = "runs pile up; add concurrency: with group: and cancel-in-progress:"
        yield source.finding(source.content, "concurrency", text)
        return
    if concurrency.get("group") != _GROUP:
        text = f"runs of other refs, or of none, are in one line; write group: {_GROUP}"
        yield source.finding(concurrency, "group", text)
    ends = _ENDS_OLD_RUNS if "pull_request" in source.triggers else False
    if concurrency["cancel-in-progress"] != ends:
        text = f"only a push or another base may end the old run; write {ends or 'false'}"
        yield source.finding(concurrency, "cancel-in-progress", text)


def ends_in_time(source: Source) -> Iterator[Finding]:
    """GitHub gives a job six hours otherwise."""
    for name, job in source.jobs.items():
        if "timeout-minutes" not in job and "uses" not in job:
            text = f"job {name} may hang for six hours; add timeout-minutes:"
            yield source.job_finding(name, "timeout-minutes", text)


def spares_forks(source: Source) -> Iterator[Finding]:
    """A fork has neither the secrets nor the wish to pay for our nights."""
    for name in source.jobs:
        if not _is_guarded(source, name):
            if "schedule" in source.triggers:
                text = f"job {name} runs every night on each fork; {_ADD_GUARD}"
                yield source.job_finding(name, "if", text)
            for line in _lines_of_job(source, name):
                if _SECRET.search(without_comment(source.lines[line])):
                    text = f"job {name} reads a secret, which a fork does not have; {_ADD_GUARD}"
                    yield Finding(source.file, line + 1, text)


_ADD_GUARD = f"add if: {GUARD}"


def _is_guarded(source: Source, name: str, asking: frozenset[str] = frozenset()) -> bool:
    """Whether a job does not run on forks: by its own condition, or by that of one it needs."""
    job = source.jobs.get(name)
    if job is None or name in asking:
        return False
    # Its plan is then of nothing, and says why.
    asks = ({"RUNS_HERE"} <= mapping_at(step, "env").keys() for step in steps_of(job))
    if name == PLAN and any(asks):
        return True
    condition = str(job.get("if", ""))
    terms = [term.strip() for term in condition.split("&&")]
    # Between others it can be in brackets, behind a `!`.
    if "||" not in condition.replace(GUARD, "") and GUARD in {terms[0], terms[-1]}:
        return True
    if _RUNS_AFTER_A_SKIP.search(condition.replace(GUARD, "")):
        return False
    return any(_is_guarded(source, each, asking | {name}) for each in names_in(job.get("needs")))


def _lines_of_job(source: Source, name: str) -> range:
    jobs = source.content["jobs"]
    start = jobs.lc.key(name)[0]
    nexts = [parent.lc.key(key)[0] for parent in (jobs, source.content) for key in parent]
    return range(start, min((line for line in nexts if line > start), default=len(source.lines)))


def is_started_safely(source: Source) -> Iterator[Finding]:
    """A required check reports on every pull request and in the merge queue; outsiders own none."""
    on = source.content.get("on")
    where = on if isinstance(on, CommentedMap) else source.content
    if "pull_request" not in source.triggers:
        return
    if Path(source.file).stem != _OF_PULL_REQUESTS:
        text = f"pull requests are judged by {_OF_PULL_REQUESTS}.yml; leave pull_request: out"
        yield source.finding(where, "pull_request", text)
    if "merge_group" not in source.triggers:
        text = "the merge queue waits for it for ever; add the trigger merge_group:"
        yield source.finding(source.content, "on", text)
    for trigger in ("pull_request", "merge_group"):
        settings = mapping_at(source.triggers, trigger)
        for key in settings.keys() - {"types"}:
            text = f"{key} leaves the required check waiting for ever; the plan leaves sessions out"
            yield source.finding(settings, key, text)
    settings = mapping_at(source.triggers, "pull_request")
    if missing := [each for each in _TYPES if each not in names_in(settings.get("types"))]:
        text = f"does not start when {', '.join(missing)}; write types: [{', '.join(_TYPES)}]"
        yield source.finding(settings or where, "types" if settings else "pull_request", text)


def fails_when_it_fails(source: Source) -> Iterator[Finding]:
    """`continue-on-error` makes a success of a failure, which `green` then believes."""
    for each in [*source.steps, *source.jobs.values()]:
        if each.get("continue-on-error", False) is not False:
            text = "its failure counts as success; leave continue-on-error: out"
            yield source.finding(each, "continue-on-error", text)


def runs_the_whole_plan(source: Source) -> Iterator[Finding]:
    """Jobs are fed by the plan only, by the names that `green` knows, and all of it runs."""
    for name, job in source.jobs.items():
        if "strategy" not in job:
            continue
        strategy = mapping_at(job, "strategy")
        if strategy.get("fail-fast") is not False:
            text = f"job {name}: one failure hides the others; add fail-fast: false"
            yield source.finding(strategy, "fail-fast", text)
        planned = _from_plan(FED.get(name, PROJECTS))
        if strategy.get("matrix") != planned:
            text = f"job {name}: its matrix is not the plan's; write matrix: {planned}"
            yield source.finding(strategy, "matrix", text)


def _from_plan(output: str) -> str:
    return f"${{{{ fromJSON(needs.{PLAN}.outputs.{output}) }}}}"


def plans_all_of_its_tier(source: Source) -> Iterator[Finding]:
    """The plan is of the tier that the file is named for, and leaves out what the file itself runs.

    Another plan would be green as well, of fewer sessions or of none.
    """
    if not source.is_workflow:
        return
    if PLAN not in source.jobs:
        text = f"no job {PLAN}, so nothing says what must run; add one, as in pr.yml"
        yield source.finding(source.content, "jobs", text)
        return
    job = source.jobs[PLAN]
    step = next((each for each in steps_of(job) if each.get("id") == PLAN), CommentedMap())
    call = _CALL.fullmatch(str(step.get("run", "")).strip())
    if call is None or call["session"] != PLAN:
        text = f"job {PLAN}: its step with id: {PLAN} is not nox -s {PLAN}; see pr.yml"
        yield source.job_finding(PLAN, "steps", text)
    elif "pull_request" in source.triggers and "PLAN_FROM_FORK" not in mapping_at(step, "env"):
        text = "does not know a fork's pull request, which must not run on a self-hosted machine; "
        text += "add env: PLAN_FROM_FORK, as declared in pyproject.toml"
        yield source.finding(step, "run", text)
    elif problem := _problem_of_plan(call["arguments"] or "", source):
        yield source.finding(step, "run", problem)
    planned = {output: f"${{{{ steps.{PLAN}.outputs.{output} }}}}" for output in _outputs(source)}
    if job.get("outputs") != planned:
        lines = ", ".join(f"{output}: {value}" for output, value in planned.items())
        text = f"job {PLAN} hands over something else than what it planned; write {lines}"
        yield source.job_finding(PLAN, "outputs", text)


def _outputs(source: Source) -> list[str]:
    outputs = [output for name, output in FED.items() if name in source.jobs]
    matrices = [mapping_at(job, "strategy").get("matrix") for job in source.jobs.values()]
    return [*outputs, *([PROJECTS] if _from_plan(PROJECTS) in matrices else [])]


def _problem_of_plan(arguments: str, source: Source) -> str | None:
    found, tier = _ARGUMENTS_OF_PLAN.fullmatch(arguments), Path(source.file).stem
    if found is None or found["tier"] != tier:
        return f'does not plan the tier of this file; write plan -- {tier}, for pr --since "$BASE"'
    calls = (_CALL.fullmatch(str(step.get("run", "")).strip()) for step in source.steps)
    called = {_session_of(call) for call in calls if call is not None}
    for name in re.findall(r"--without (\S+)", arguments):
        if name not in called:
            return f"{name} is left out and runs nowhere; take --without {name} away"
    return None


def runs_where_the_plan_says(source: Source) -> Iterator[Finding]:
    """A planned session has the machine and the time that it declares."""
    for name in source.jobs.keys() & FED.keys():
        for key, planned in PLANNED.items():
            if source.jobs[name].get(key) != planned:
                text = f"job {name} is not what was planned; write {key}: {planned}"
                yield source.job_finding(name, key, text)


def runs_what_it_plans_for_the_image(source: Source) -> Iterator[Finding]:
    """A plan that asks for the image has a job that runs in it, and does there what others do."""
    steps = steps_of(source.jobs.get(PLAN, {}))
    job = source.jobs.get(CONTAINED)
    if job is None:
        if any("PLAN_IMAGE" in mapping_at(step, "env") for step in steps):
            text = (
                f"what it plans for the image runs nowhere; add the job {CONTAINED}, as in pr.yml"
            )
            yield source.job_finding(PLAN, "steps", text)
        return
    if job.get("container") != PLANNED_IMAGE:
        text = f"job {CONTAINED} is not in the planned image; write container: {PLANNED_IMAGE}"
        yield source.job_finding(CONTAINED, "container", text)
    outside: Mapping[str, Any] = source.jobs.get(SESSION, {})
    for key in sorted((job.keys() | outside.keys()) - _OF_ITS_OWN):
        if job.get(key) != outside.get(key):
            text = f"job {CONTAINED} does something else than {SESSION}; give it the same {key}"
            yield source.job_finding(CONTAINED, key, text)


def ends_in_green(source: Source) -> Iterator[Finding]:
    """The last job reads the results of all the others, and only a pull request's is required."""
    if not source.is_workflow:
        return
    job = source.jobs.get(GREEN)
    if job is None:
        text = f"no job {GREEN}, so nothing sees a skipped job; add one, as in pr.yml"
        yield source.finding(source.content, "jobs", text)
        return
    missing = sorted({*source.jobs} - {GREEN, *names_in(job.get("needs"))})
    if missing:
        text = f"{GREEN} does not see {', '.join(missing)}; add to its needs:"
        yield source.job_finding(GREEN, "needs", text)
    guarded = () if "pull_request" in source.triggers else (f"always() && {GUARD}",)
    if job.get("if") not in ("always()", *guarded):
        allowed = " or if: ".join(("always()", *guarded))
        text = f"{GREEN} is skipped when a job fails, or sooner; write if: {allowed}"
        yield source.job_finding(GREEN, "if", text)
    for name, other in source.jobs.items():
        if name != GREEN and other.get("name") == GREEN:
            text = f"job {name} would stand for the check {GREEN}; give it another name:"
            yield source.job_finding(name, "name", text)
    yield from _is_asked(source, job)


def _is_asked(source: Source, job: CommentedMap) -> Iterator[Finding]:
    asks = [step for step in steps_of(job) if step.get("run") == f"nox -s {GREEN}"]
    if not any("NEEDS" in mapping_at(step, "env") for step in asks):
        text = f"run: nox -s {GREEN} with env: NEEDS: ${{{{ toJSON(needs) }}}} is missing"
        yield source.finding(asks[0] if asks else job, "run" if asks else "steps", text)
    is_required = "pull_request" in source.triggers
    if is_required and job.get("name", GREEN) != GREEN:
        text = f"pull requests wait for a check named {GREEN}; write name: {GREEN}"
        yield source.job_finding(GREEN, "name", text)
    if not is_required and job.get("name", GREEN) == GREEN:
        text = (
            f"started by hand on a branch, it would stand for a pull request's check {GREEN}; "
            "give it another name:"
        )
        yield source.job_finding(GREEN, "name", text)


def sees_what_was_left(source: Source) -> Iterator[Finding]:
    """The last job has what the others left: one that ran nothing is a success as well."""
    steps = steps_of(source.jobs.get(GREEN, {}))
    uses = "actions/download-artifact@"
    downloads = [step for step in steps if str(step.get("uses", "")).startswith(uses)]
    folders = {mapping_at(step, "with").get("path") for step in downloads} - {None}
    for step in steps:
        is_asked = step.get("run") == f"nox -s {GREEN}"
        if is_asked and mapping_at(step, "env").get("RESULTS") not in folders:
            text = (
                "does not see what the sessions left; before it, download the artifacts to "
                "path: results, and add env: RESULTS: results"
            )
            yield source.finding(step, "run", text)


RULES: tuple[Rule, ...] = (
    calls_sessions_only,
    keeps_the_folder,
    sets_known_variables,
    uses_what_is_allowed,
    holds_few_rights,
    has_what_it_must,
    installs_nox_from_the_lock,
    keeps_actions_small,
    releases_tags_only,
    brings_in_what_started_it,
    cancels_what_is_outdated,
    ends_in_time,
    spares_forks,
    is_started_safely,
    fails_when_it_fails,
    runs_the_whole_plan,
    plans_all_of_its_tier,
    runs_where_the_plan_says,
    runs_what_it_plans_for_the_image,
    ends_in_green,
    sees_what_was_left,
)


def check(root: Path, catalogue: Catalogue) -> list[Finding]:
    """Return everything that the rules find in the workflows and actions of `root`."""
    files = sorted(file for pattern in PATTERNS for file in root.glob(pattern))
    found = [finding for file in files for finding in _check_file(file, root, catalogue)]
    if not any("workflows" in file.parts for file in files):
        found.append(Finding(".github/workflows", 1, "no workflow; git checkout .github"))
    for file in (file for pattern in EXCUSES for file in root.glob(pattern)):
        text = "a tool can pass over findings for this; take it away and mend what it then says"
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
        actions: OWNER/NAME, with /PATH if it has one, or the folder of one of our own.
        reusable: workflows that a job may call.
        variables: what a step may set, each with its one value.
        jobs: by the name of a workflow's file, what each of its own jobs must have.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    actions: list[str]
    reusable: list[str]
    variables: dict[str, str]
    jobs: dict[str, dict[str, _Job]]


def read_catalogue(root: Path, *, sessions: Iterable[str], tiers: Iterable[str]) -> Catalogue:
    """Return what workflows may call and use.

    Raises:
        ValidationError: [tool.tasks.workflows] in pyproject.toml is not as documented.
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
    parser.add_argument("--sessions", required=True, help="the catalogue's, with commas between")
    parser.add_argument("--tiers", required=True, help="the catalogue's, with commas between")
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
